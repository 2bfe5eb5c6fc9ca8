"""``kbuild cache``: what is removed, and what stays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from kbuild.cli.cache import command


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
    assert removed.exit_code == 0 and removed.stderr.splitlines()[-1] == "removed 1 damaged entries"
    assert list(blobs.iterdir()) == [whole] and whole.read_bytes() == b"whole"
