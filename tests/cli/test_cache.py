"""``kbuild cache``: what is removed, and what stays."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from kbuild.cli import cache
from kbuild.cli.cache import command


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What lies in the cache: two layers and an image; to prune it removes the first."""
    sizes = (("layers", 3_000_000), ("layers", 1_000_000), ("images", 2_500_000))
    entries: list[Any] = [
        SimpleNamespace(kind=kind, size=size, path=tmp_path / f"{kind}-{size}") for kind, size in sizes
    ]
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("KBUILD_CACHE_LIMIT", "5 GB")
    monkeypatch.setattr(cache, "list_cache", lambda folder: list(entries))
    monkeypatch.setattr(cache, "prune_cache", lambda folder, *, limit: [entries.pop(0)])
    return entries


def test_what_is_kept_is_counted_by_its_kind(kept: list[Any], tmp_path: Path) -> None:
    told = json.loads(CliRunner().invoke(command, ["info", "--json"]).stdout)
    assert (told["path"], told["size"], told["limit"]) == (str(tmp_path), 6_500_000, 5_000_000_000)
    filled = {kind: each for kind, each in told["kinds"].items() if each["entries"]}
    assert filled == {"layers": {"entries": 2, "size": 4_000_000}, "images": {"entries": 1, "size": 2_500_000}}
    first, *rows = CliRunner().invoke(command, ["info"]).stdout.splitlines()
    assert first == f"{tmp_path}: 0.01 GB of the 5 GB that it may hold"
    assert sorted(row.split()[:5] for row in rows) == [
        ["2.5", "MB", "1", "images", "that"],
        ["4.0", "MB", "2", "packed", "layers,"],
    ]


@pytest.mark.parametrize(("limit", "stays"), [("3 MB", True), ("3.5 MB", False), ("4 MB", False)])
def test_what_was_removed_is_said_and_what_had_to_stay(kept: list[Any], limit: str, stays: bool) -> None:
    done = CliRunner().invoke(command, ["prune", "--limit", limit])
    assert done.stdout == "removed 1 entry, 3.0 MB\n"
    assert done.stderr == ("running commands use 3.5 MB, which stay\n" if stays else "")


def test_what_was_removed_is_named_for_programs(kept: list[Any]) -> None:
    gone = str(kept[0].path)
    assert json.loads(CliRunner().invoke(command, ["prune", "--json"]).stdout) == {
        "removed": [gone],
        "freed": 3_000_000,
    }


@pytest.mark.parametrize("kind", ["layers", "packs"])
def test_of_what_is_damaged_only_that_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path))
    blobs = tmp_path / kind / "sha256"
    blobs.mkdir(parents=True)
    whole, broken = (blobs / hashlib.sha256(text).hexdigest() for text in (b"whole", b"broken"))
    whole.write_bytes(b"whole")
    broken.write_bytes(b"brokem")
    found = CliRunner().invoke(command, ["verify"])
    assert found.stdout.split() == [str(broken), "does", "not", "have", "its", "digest"]
    removed = CliRunner().invoke(command, ["verify", "--remove"])
    assert removed.exit_code == 0 and removed.stderr.splitlines()[-1] == "removed 1 damaged entry"
    assert list(blobs.iterdir()) == [whole] and whole.read_bytes() == b"whole"
