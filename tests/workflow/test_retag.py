"""A tag more for an image that a registry has, by the calls that the distribution specification has for it."""

from __future__ import annotations

import hashlib

import pytest

from kbuild.errors import RegistryError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.workflow.fleet import retag as retagging
from kbuild.workflow.fleet.retag import retag

MEDIA = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = b'{"schemaVersion": 2}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
SOURCE = ImageReference.parse(f"registry.example/churn@{DIGEST}")


class Client:
    """A repository with one manifest, and what its tags name."""

    tags: dict[str, str]
    sends: bytes
    closed: int
    asked: list[str]

    def __init__(self, reference: ImageReference) -> None:
        self.asked.append(reference.name)

    def find_digest(self, tag: str) -> str | None:
        return self.tags.get(tag)

    def read_manifest(self, version: str) -> tuple[str, bytes]:
        assert version == DIGEST
        return MEDIA, self.sends

    def push_manifest(self, version: str, media_type: str, data: bytes) -> None:
        assert media_type == MEDIA
        self.tags[version] = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    made = type("Made", (Client,), {"tags": {"1": DIGEST}, "sends": MANIFEST, "closed": 0, "asked": []})
    monkeypatch.setattr(retagging, "RegistryClient", made)
    return made


def test_the_tag_names_the_very_manifest(client: type[Client]) -> None:
    target = ImageReference.parse("registry.example/churn:champion")
    assert retag(SOURCE, target) is True
    assert client.tags == {"1": DIGEST, "champion": DIGEST}
    assert retag(SOURCE, target) is False, "it does already"
    assert client.closed == 2 and client.asked == ["registry.example/churn"] * 2
    client.tags["champion"] = "sha256:" + "0" * 64
    assert retag(SOURCE, target) is True and client.tags["champion"] == DIGEST


def test_what_a_registry_sends_is_not_taken_for_the_image(client: type[Client]) -> None:
    client.sends = MANIFEST + b" "
    with pytest.raises(RegistryError, match="sent another manifest"):
        retag(SOURCE, ImageReference.parse("registry.example/churn:champion"))
    assert client.tags == {"1": DIGEST} and client.closed == 1


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (str(SOURCE), "registry.example/other:champion"),
        (str(SOURCE), "elsewhere.example/churn:champion"),
        ("registry.example/churn:1", "registry.example/churn:champion"),
        (str(SOURCE), f"registry.example/churn@{DIGEST}"),
    ],
)
def test_a_name_that_it_cannot_have_is_refused_unasked(client: type[Client], source: str, target: str) -> None:
    with pytest.raises(RegistryError, match="cannot name") as caught:
        retag(ImageReference.parse(source), ImageReference.parse(target))
    assert "one repository" in str(caught.value.hint) and client.asked == []
