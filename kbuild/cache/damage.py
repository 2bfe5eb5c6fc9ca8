"""What in the cache is no longer what was made or fetched."""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from kbuild.cache.entries import TREES
from kbuild.cache.tree import is_damaged, is_foreign
from kbuild.digest import digest_file
from kbuild.files import BYTES, native


def damaged(cache: Path, is_damaged_model: Callable[[Path], bool]) -> Iterator[tuple[Path, str]]:
    """Read what has a digest to be read against; tells each file that does not hold and why.

    ``is_damaged_model`` reads an entry of ``models``, which a floor above this one makes.
    """
    for path in sorted((cache / "downloads").glob("*/*")):
        if not path.name.startswith(".") and digest_file(path).hex != path.parent.name:
            yield path, "does not have the sha256 it was locked with"
    for pattern in (
        "layers/sha256/[!.]*",
        "packs/sha256/[!.]*",
        "images/*/blobs/sha256/*",
        "pulled/*/blobs/sha256/*",
        "remote/*/blobs/sha256/*",
    ):
        for path in sorted(cache.glob(pattern)):
            if digest_file(path).hex != path.name:
                yield path, "does not have its digest"
    for path in sorted((cache / "debs").glob("[!.]*.deb")):
        if digest_file(path).hex != path.stem:
            yield path, "does not have its digest"
    for path in sorted((cache / "models").glob("[!.]*")):
        if is_damaged_model(path):
            yield path, "is not the model that was fetched"
    for kind in TREES:
        for tree in sorted((cache / kind).glob("[!.]*")):
            yield from _damaged_tree(tree)


def _damaged_tree(tree: Path) -> Iterator[tuple[Path, str]]:
    """What is named in a RECORD that does not hold, else the tree itself where it is not what was made."""
    damage = is_damaged(tree)
    if damage is False:
        return
    named = [found for record in sorted(tree.glob("**/*.dist-info/RECORD")) for found in _damaged_wheel(record)]
    yield from named
    if damage and not named:
        yield tree, "is not what was installed: a file in it changed, is missing, or is one too many"
    if damage is None and is_foreign(tree):
        yield tree, "was made elsewhere, or with another KBUILD_CACHE_KEY: nothing here vouches for it"


def _damaged_wheel(record: Path) -> Iterator[tuple[Path, str]]:
    """RECORD: the "Recording installed projects" specification."""
    with record.open(newline="", encoding=BYTES[0], errors=BYTES[1]) as lines:
        for name, stated, *_ in csv.reader(lines):
            algorithm, _, value = stated.partition("=")
            path = record.parent.parent / native(name)
            if algorithm != "sha256" or not value:
                continue
            if not path.is_file():
                yield path, "is missing"
            elif base64.urlsafe_b64encode(bytes.fromhex(digest_file(path).hex)).rstrip(b"=").decode() != value:
                yield path, "does not have the hash of its package's RECORD"
