"""What ``kbuild list`` shows of names that images, registries and runs have: none reaches a terminal as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from kbuild.cli import list as listing
from kbuild.digest import digest_bytes
from kbuild.image.store.listing import ListedImage
from kbuild.image.store.verdicts import Said
from kbuild.plan.make import LABEL_RUN_ID

NASTY = "x\x1b[31m\x9b\u202e{0}%s[red]\n\x07y"


def test_no_name_brings_escapes_or_lines_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = Said(models=(NASTY,), verdict=NASTY, rebuild=NASTY, audit=NASTY, pushed=(NASTY,))
    labels = {LABEL_RUN_ID: NASTY}
    image = ListedImage(digest=digest_bytes(b""), names=(NASTY,), platforms=(NASTY,), labels=labels, said=said)
    monkeypatch.setattr(listing, "list_here", lambda _: [image])
    monkeypatch.setattr(listing, "cache_folder", lambda: tmp_path)
    result = CliRunner().invoke(listing.command, [])
    assert result.exit_code == 0, result.output
    assert not set(result.stdout) & set("\x1b\x9b\u202e\x07")
    assert len(result.stdout.splitlines()) == 2 and "{0}%s[red]" in result.stdout
    below = "\n".join(listing._below([image]))
    assert not set(below) & set("\x1b\x9b\u202e\x07") and len(below.splitlines()) == 6
