"""What is carried into the clean cache of a rebuild, and what is left behind."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild.plan.left_out import NOTHING
from kbuild.platform import Platform
from kbuild.verify.rebuild import Claims, carry_downloads, carry_pins

AMD = Platform("linux", "amd64")
MODEL = f"sha256:{'2' * 64}"


def claims(lock_digest: str) -> Claims:
    return Claims(
        model="models:/m-1", base="scratch", platform=AMD, lock_digest=lock_digest, model_digest=MODEL, labels=(),
        compression="zstd", left_out=NOTHING,
    )  # fmt: skip


def write_lock(cache: Path, name: str, version: str) -> Path:
    """conda-lock's unified lockfile, version 1, of one package."""
    package = {
        "name": "python", "version": version, "manager": "conda", "platform": "linux-64", "dependencies": {},
        "url": f"https://conda.example/linux-64/python-{version}-0.conda", "hash": {"sha256": "a" * 64},
        "category": "main", "optional": False,
    }  # fmt: skip
    metadata: dict[str, Any] = {"content_hash": {"linux-64": "0"}, "channels": [], "platforms": ["linux-64"]}
    path = cache / "locks" / name / "conda-lock.yml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"version": 1, "metadata": {**metadata, "sources": []}, "package": [package]}))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    (tmp_path / "clean").mkdir()
    return tmp_path / "clean"


def test_the_record_of_the_base_and_the_captured_packages_go_along(cache: Path, clean: Path) -> None:
    mine, others = f"{'2' * 64}-linux-64.json", [f"{'2' * 64}-linux-aarch64.json", f"{'3' * 64}-linux-64.json"]
    (cache / "base-records").mkdir(parents=True)
    for name in (mine, *others):
        (cache / "base-records" / name).write_text(name)
    package = "channel/linux-64/python-3.11.7-0.conda"
    (cache / package).parent.mkdir(parents=True)
    (cache / package).write_bytes(b"captured")
    (clean / "channel").mkdir()
    assert carry_pins(cache, clean, claims("sha256:" + "0" * 64)) is None
    carried = {str(path.relative_to(clean)): path.read_bytes() for path in clean.rglob("*") if path.is_file()}
    assert carried == {f"base-records/{mine}": mine.encode(), package: b"captured"}


def test_a_machine_that_keeps_nothing_of_it_carries_nothing(cache: Path, clean: Path) -> None:
    assert carry_pins(cache, clean, claims(MODEL)) is None
    assert list(clean.iterdir()) == []


def test_the_lock_is_the_one_that_the_image_names(cache: Path, clean: Path) -> None:
    """By the sha256 of the file itself, as the label of an image of before had it."""
    write_lock(cache, "a", "3.11.6")
    path = write_lock(cache, "b", "3.11.7")
    write_lock(cache, "c", "3.11.8")
    assert carry_pins(cache, clean, claims(f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")) == path
    assert carry_pins(cache, clean, claims("sha256:" + "0" * 64)) is None


@pytest.mark.parametrize("linked", [True, False])
def test_only_files_with_their_own_bytes_are_carried(
    cache: Path, clean: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    good, deb = hashlib.sha256(b"good").hexdigest(), hashlib.sha256(b"deb").hexdigest()
    files = {
        f"downloads/{good}/one.whl": b"good",
        f"downloads/{good}/.one.whl.part": b"good",
        f"downloads/{'0' * 64}/two.whl": b"good",
        f"debs/{deb}.deb": b"deb",
        f"debs/{'0' * 64}.deb": b"deb",
        f"debs/{deb}.txt": b"deb",
    }
    for name, data in files.items():
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(data)

    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    if not linked:
        monkeypatch.setattr("kbuild.verify.rebuild.os.link", elsewhere)
    assert carry_downloads(cache, clean) == 2
    carried = {str(path.relative_to(clean)): path for path in clean.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in carried.items()} == {
        f"downloads/{good}/one.whl": b"good", f"debs/{deb}.deb": b"deb"
    }  # fmt: skip
    assert all((path.stat().st_nlink == 2) is linked for path in carried.values())
