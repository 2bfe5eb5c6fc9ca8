"""Which wheels an interpreter accepts, told from its version and platform alone: it need not run here.

Format: PyPA's "Platform compatibility tags" (PEP 425, PEP 600).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion

from kbuild.platform import Platform

LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
"""The C library, as (major, minor), of the names that were used before PEP 600."""

_NEWEST_GLIBC = 60  # the second number of a C library that is still far away


@cache
def supported_tags(python: str, platform: Platform, glibc: str | None = None) -> frozenset[Tag]:
    """Every tag that CPython ``python`` (``3.11.7``) accepts on Linux with this glibc (``2.36``), or one of any age."""
    machine = platform.machine
    version = [int(part) for part in python.split(".")[:2]]
    abi = f"cp{version[0]}{version[1]}"
    newest = _NEWEST_GLIBC if glibc is None else int(glibc.split(".")[1])
    platforms = [f"manylinux_2_{number}_{machine}" for number in range(5, newest + 1)]
    platforms += [f"{legacy}_{machine}" for legacy, (_, number) in LEGACY.items() if number <= newest]
    platforms.append(f"linux_{machine}")
    return frozenset([*cpython_tags(version, [abi], platforms), *compatible_tags(version, abi, platforms)])


def fits(filename: str, python: str, platform: Platform, glibc: str | None = None) -> bool:
    """Whether a file is a wheel that this interpreter accepts, on this glibc or on one of any age."""
    try:
        tags = parse_wheel_filename(filename)[3]
    except (InvalidWheelFilename, InvalidVersion):
        return False
    return not tags.isdisjoint(supported_tags(python, platform, glibc))


def wanted_glibc(tags: Iterable[Tag], supported: frozenset[Tag]) -> tuple[int, int] | None:
    """The oldest C library that one of a wheel's tags promises to run with, of those among ``supported``; None where
    one of them asks for none. Raises ValueError where none of them is among ``supported``."""
    needs = [_glibc(tag.platform) for tag in tags if tag in supported]
    return None if None in needs else min(need for need in needs if need is not None)


def _glibc(platform: str) -> tuple[int, int] | None:
    legacy = LEGACY.get(platform.split("_", 1)[0])
    if legacy is not None:
        return legacy
    match = re.match(r"manylinux_(\d+)_(\d+)_", platform)
    return None if match is None else (int(match[1]), int(match[2]))
