"""What an archive offers of a base's packages, kept from one build to the next by the digests of its package lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import digest_json
from kbuild.files import mark_used
from kbuild.image.base.debian.archive import Fetch, Release, list_digests, read_packages
from kbuild.plan.base import BasePackage

_RECIPE = 1  # raised when the same lists would be read differently


def read_offers(
    release: Release, components: Sequence[str], architecture: str, wanted: Sequence[str], *, fetch: Fetch, cache: Path
) -> list[BasePackage]:
    """As ``read_packages``; lists whose digests stand in the Release file as before are not read again.

    The Release file itself, and its signature, were read and checked just now: whatever it names newly is read.
    """
    found: list[BasePackage] = []
    for component in components:
        digests = list_digests(release, component, architecture)
        kept = cache / f"{digest_json([_RECIPE, digests, sorted(wanted)]).hex}.json"
        offered = _read(kept) if digests else None
        if offered is None:
            offered = read_packages(release, [component], architecture, wanted, fetch=fetch)
            write_vouched(kept, json.dumps([asdict(package) for package in offered]).encode())
        found += offered
    return found


def _read(kept: Path) -> list[BasePackage] | None:
    try:
        packages = [BasePackage(**each) for each in json.loads(read_vouched(kept))]
        mark_used(kept)
    except (FileNotFoundError, ValueError, TypeError):
        return None  # not kept yet, or damaged: read anew
    return packages if all(isinstance(text, str) for package in packages for text in asdict(package).values()) else None
