from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from kbuild.api import find
from kbuild.api.request import make_image_request
from kbuild.errors import InvalidImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.project.config import ProjectConfig


def test_an_image_is_built_for_a_command_that_has_none_of_the_options() -> None:
    """ "kbuild run MODEL" and "verify --rebuild" build with these."""
    request = make_image_request(ProjectConfig(), "models:/m/1")
    assert request.model == "models:/m/1" and not request.assembling.allow_unsigned and not request.slim


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("registry.example/churn:1", True),
        ("localhost:5000/churn:1", True),
        ("churn@sha256:" + "a" * 64, True),
        ("churn:1", False),
        ("team/churn:1", False),
        ("registry.example/churn", False),
        ("folder:1", False),
        ("localhost:5000/folder:1", False),
    ],
)
def test_a_registry_is_asked_for_what_can_be_nothing_else(
    text: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder:1").mkdir()
    (tmp_path / "localhost:5000/folder:1").mkdir(parents=True)
    assert find._is_of_a_registry(text, ImageReference.parse(text)) is asked


@pytest.mark.slow
def test_a_packed_tar_that_expands_without_bounds_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A hundred megabytes of nothing, of which gzip makes a thousandth."""
    file = tmp_path / "image.tar"
    with tarfile.open(file, "w:gz") as archive:
        member = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
        member.size = 100_000_000
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with tarfile.open(file) as archive, pytest.raises(InvalidImage, match="expands without bounds"):
        list(find._members(archive, file))


def test_a_tar_that_makes_folders_without_end_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """One member makes as many folders as its name has parts."""
    file = tmp_path / "image.tar"
    for parts, fits in ((16, True), (17, False)):
        with tarfile.open(file, "w") as archive:
            archive.addfile(tarfile.TarInfo("d/" * parts + "x"))
        with tarfile.open(file) as archive:
            if fits:
                assert len(list(find._members(archive, file))) == 1
                continue
            with pytest.raises(InvalidImage, match=r"lies in too many folders"):
                list(find._members(archive, file))
