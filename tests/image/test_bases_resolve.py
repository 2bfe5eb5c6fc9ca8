from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kbuild.digest import Digest
from kbuild.errors import BaseNotPinned, RegistryError
from kbuild.image.base import resolve
from kbuild.image.base.choice import parse_base
from kbuild.image.oci.image_reference import ImageReference
from kbuild.plan.base import ResolvedBase
from kbuild.platform import Platform
from kbuild.progress import Silent

DIGEST = Digest("a" * 64)
NAME = "registry.example/python:3.11"
AMD64 = Platform("linux", "amd64")


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> list[ImageReference]:
    """What was pulled; every image is the one of ``DIGEST``."""
    asked: list[ImageReference] = []

    def pull(reference: ImageReference, *_: object, **__: object) -> tuple[ImageReference, Path]:
        asked.append(reference)
        return reference.with_digest(DIGEST), Path("/layout")

    monkeypatch.setattr("kbuild.image.registry.transfer.pull_image", pull)
    return asked


def resolved(text: str, *, recorded: ResolvedBase | None = None, locked: bool = False) -> ResolvedBase:
    nobody: Any = None
    return resolve.resolve_base(
        parse_base(text),
        AMD64,
        recorded=recorded,
        locked=locked,
        cache=Path("/cache"),
        run=nobody,
        progress=Silent(),
    )


def test_a_tag_becomes_a_digest_and_stays_it(pulled: list[ImageReference]) -> None:
    base = resolved(NAME)
    assert (base.name, base.digest, base.reference) == (NAME, DIGEST, f"registry.example/python@{DIGEST}")
    resolved(NAME, recorded=base, locked=True)
    assert [reference.digest for reference in pulled] == [None, DIGEST]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("debian:bookwrm", "did you mean debian:bookworm?"),
        ("ubuntu:nobel", "did you mean ubuntu:noble?"),
        (NAME, "ask"),
    ],
)
def test_a_suite_that_is_misspelt_is_answered(text: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pull(reference: ImageReference, *_: object, **__: object) -> tuple[ImageReference, Path]:
        raise RegistryError("registry docker.io does not answer", hint="ask")

    monkeypatch.setattr("kbuild.image.registry.transfer.pull_image", pull)
    with pytest.raises(RegistryError, match="does not answer") as caught:
        resolved(text)
    assert caught.value.hint == hint


def test_a_tag_without_a_recorded_digest_is_refused_when_locked(pulled: list[ImageReference]) -> None:
    with pytest.raises(
        BaseNotPinned, match=r"no digest is recorded for base image registry\.example/python:3\.11"
    ) as e:
        resolved(NAME, locked=True)
    assert "registry.example/python@sha256:" in str(e.value.hint)
    other = ResolvedBase(kind="registry", name="registry.example/other:1", digest=DIGEST, reference="r")
    with pytest.raises(BaseNotPinned):
        resolved(NAME, recorded=other, locked=True)
    assert pulled == []
    assert resolved(f"registry.example/python@{DIGEST}", locked=True).digest == DIGEST


def test_one_image_has_one_name_however_it_is_written(pulled: list[ImageReference]) -> None:
    names = ("python", "python:latest", "library/python", "docker.io/library/python:latest", "index.docker.io/python")
    assert {resolved(name).name for name in names} == {"docker.io/library/python:latest"}
    # Records of before hold the name as it was written.
    earlier = ResolvedBase(kind="registry", name="python:latest", digest=DIGEST, reference="r")
    assert resolved("python", recorded=earlier, locked=True).digest == DIGEST
    assert pulled[-1].digest == DIGEST
