"""What images are on this machine, and by which names."""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kbuild.cache.notes import read_vouched
from kbuild.digest import Digest
from kbuild.errors import InvalidImage, InvalidReference
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.verdicts import Said, Verdicts
from kbuild.untrusted import parse_json

_LAYOUT = re.compile(r"[0-9a-f]{64}")
_REFERENCES = "references"


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedImage:
    """An image or an image index in the cache. ``size`` is of its packed blobs in bytes, what they share counts once;
    ``built`` is seconds since 1970; ``labels`` are those of its first platform; ``damaged`` says what is wrong;
    ``said`` is what commands of this machine said of it, of an index what they said of its images."""

    digest: Digest
    names: tuple[str, ...]
    platforms: tuple[str, ...] = ()
    size: int = 0
    built: float = 0.0
    labels: Mapping[str, str]
    damaged: str | None = None
    said: Said = Said()  # noqa: RUF009  frozen


def list_here(root: Path) -> list[ListedImage]:
    """All images of ``root``, the folder of a ``LocalImages``, those built last first; a damaged one says so."""
    names = names_here(root)
    folders = [path for path in root.iterdir() if _LAYOUT.fullmatch(path.name)] if root.is_dir() else []
    found = []
    for folder in folders:
        digest = Digest(folder.name)
        # What is removed meanwhile is not there.
        with contextlib.suppress(FileNotFoundError):
            found.append(_look(folder, digest, tuple(sorted(names[str(digest)])), Verdicts(root)))
    return sorted(found, key=lambda each: (-each.built, str(each.digest)))


def _look(folder: Path, digest: Digest, names: tuple[str, ...], verdicts: Verdicts) -> ListedImage:
    built = (folder / "index.json").stat().st_mtime
    size = sum(path.stat().st_size for path in (folder / "blobs" / "sha256").iterdir())
    try:
        manifests = [layouts.read_manifest(folder, entry.digest) for entry in layouts.list_images(folder, digest)]
        platforms = tuple(layouts.read_platform(folder, manifest) for manifest in manifests)
        labels = _labels(layouts.read_json_blob(folder, manifests[0].config.digest)) if manifests else {}
    except InvalidImage as error:
        return ListedImage(digest=digest, names=names, size=size, built=built, labels={}, damaged=error.message)
    said = verdicts.said(digest)
    if len(manifests) > 1:
        said = _of_all(said, [verdicts.said(entry.digest) for entry in layouts.list_images(folder, digest)])
    return ListedImage(
        digest=digest, names=names, platforms=platforms, size=size, built=built, labels=labels, said=said
    )


def _of_all(said: Said, images: Sequence[Said]) -> Said:
    """What was said of an index: a verdict on some of its images alone says on how many."""
    return replace(
        said,
        verdict=_counted([each.verdict for each in images]),
        rebuild=_counted([each.rebuild for each in images]),
        audit=_counted([each.audit for each in images]),
        audit_date=max((each.audit_date for each in images if each.audit_date is not None), default=None),
    )


def _counted(verdicts: Sequence[str | None]) -> str | None:
    counts = Counter(each for each in verdicts if each is not None)
    if set(counts.values()) == {len(verdicts)}:
        return verdicts[0]
    return ", ".join(f"{count}/{len(verdicts)} {verdict}" for verdict, count in counts.most_common()) or None


def _labels(config: Any) -> dict[str, str]:
    inner = config.get("config") if isinstance(config, dict) else None
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}


def names_here(root: Path) -> dict[str, set[str]]:
    """The names that mean each digest, as people type them."""
    names: dict[str, set[str]] = defaultdict(set)
    for path in (root / _REFERENCES).glob("*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, InvalidReference):
            value = parse_json(read_vouched(path))
            names[str(value["digest"])].add(ImageReference.parse(value["key"]).familiar)
    return names
