"""What ``kbuild deploy`` is given: an image by name, digest or tag, and what it says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kbuild.api import deploying
from kbuild.api.deploying import DeployOptions, deploy
from kbuild.digest import Digest
from kbuild.errors import ImageNotFound

DIGEST = "sha256:" + "a" * 64
MANIFEST = b'{"schemaVersion": 2}'


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The container of a Knative service of an image with this config; ``asked`` are the names it was looked for by."""
    asked: list[str] = []

    def call(subject: str, config: dict[str, Any], *, there: bool = True) -> dict[str, Any]:
        @contextmanager
        def existing(text: str, tools: Any) -> Iterator[Any]:
            asked.append(text)
            yield (SimpleNamespace(layout=tmp_path, digest=Digest.parse(DIGEST)), None) if there else None

        monkeypatch.setattr(deploying, "existing_image", existing)
        monkeypatch.setattr(deploying, "read_config", lambda layout, digest: (None, config))
        tools = SimpleNamespace(cache=tmp_path / "cache", using_cache=nullcontext)
        session: Any = SimpleNamespace(tools=tools, config=None, voice=SimpleNamespace(say=lambda text: None))
        deploy(subject, tmp_path / "out", DeployOptions(to="knative"), session=session)
        service: dict[str, Any] = yaml.safe_load((tmp_path / "out/service.yaml").read_text())
        return service

    call.asked = asked  # type: ignore[attr-defined]
    return call


def container(service: dict[str, Any]) -> Any:
    return service["spec"]["template"]["spec"]["containers"][0]


def test_a_tag_is_the_digest_that_it_has_now(deployed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest is the SHA-256 of the manifest's bytes (OCI distribution-spec); a tag may be another image tomorrow."""
    read: list[tuple[str, str]] = []

    class Client:
        def __init__(self, reference: Any) -> None:
            self.repository = reference.repository

        def read_manifest(self, tag: str) -> tuple[str, bytes]:
            read.append((self.repository, tag))
            return "application/vnd.oci.image.manifest.v1+json", MANIFEST

    monkeypatch.setattr("kbuild.image.registry.client.RegistryClient", Client)
    pinned = f"registry.example/team/churn@sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
    service = deployed("registry.example/team/churn:3", {})
    assert container(service)["image"] == pinned and deployed.asked == [pinned]
    assert service["metadata"]["name"] == "churn"
    deployed("registry.example/team/churn", {})
    assert read == [("team/churn", "3"), ("team/churn", "latest")]
    read.clear()
    named = f"registry.example/team/churn:3@{DIGEST}"
    assert container(deployed(named, {}))["image"] == f"registry.example/team/churn@{DIGEST}"
    assert read == [], "whoever names a digest means it"


@pytest.mark.parametrize(
    ("config", "port", "user"),
    [
        ({}, 8080, None),
        ({"ExposedPorts": {"9000/tcp": {}}}, 9000, None),
        ({"ExposedPorts": {"9100": {}, "9000/tcp": {}}}, 9000, None),
        ({"ExposedPorts": {"8000-8010/tcp": {}}}, 8080, None),
        ({"ExposedPorts": ["9000/tcp"]}, 8080, None),
        ({"User": "1234"}, 8080, 1234),
        ({"User": "1234:5678"}, 8080, 1234),
        ({"User": "model"}, 8080, None),  # a name is nobody that runAsUser can be
        ({"User": "0"}, 8080, None),
        ({"User": "²"}, 8080, None),
    ],
)
def test_port_and_user_are_the_images_own(deployed: Any, config: dict[str, Any], port: int, user: int | None) -> None:
    made = container(deployed(f"registry.example/churn@{DIGEST}", config))
    assert made["ports"][0]["containerPort"] == port
    assert made["securityContext"].get("runAsUser") == user


def test_annotations_are_what_kbuild_says_of_it_and_no_book(deployed: Any) -> None:
    labels = {"io.kbuild.run.id": "r", "io.kbuild.long": "x" * 501, "io.kbuild.most": "x" * 500, "maintainer": "me"}
    service = deployed(f"registry.example/churn@{DIGEST}", {"Labels": labels})
    assert service["metadata"]["annotations"] == {"io.kbuild.run.id": "r", "io.kbuild.most": "x" * 500}


def test_an_image_that_no_registry_gives(deployed: Any) -> None:
    with pytest.raises(ImageNotFound, match="is not an image of a registry"):
        deployed(f"registry.example/churn@{DIGEST}", {}, there=False)
