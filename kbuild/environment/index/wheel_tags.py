"""Which wheels an interpreter accepts, told from its version and platform alone: it need not run here.

Format: PyPA's "Platform compatibility tags" (PEP 425, PEP 600).
"""

from __future__ import annotations

from functools import cache

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from kbuild.platform import Platform

LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
"""The C library, as (major, minor), of the names that were used before PEP 600."""

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_NEWEST_GLIBC = 60  # the second number of a C library that is still far away


@cache
def supported_tags(python: str, platform: Platform) -> frozenset[Tag]:
    """Every tag that CPython ``python`` (``3.11.7``) accepts on glibc Linux of any age."""
    machine = _MACHINES[platform.architecture]
    version = [int(part) for part in python.split(".")[:2]]
    abi = f"cp{version[0]}{version[1]}"
    platforms = [f"manylinux_2_{number}_{machine}" for number in range(5, _NEWEST_GLIBC)]
    platforms += [f"{legacy}_{machine}" for legacy in LEGACY] + [f"linux_{machine}"]
    return frozenset([*cpython_tags(version, [abi], platforms), *compatible_tags(version, abi, platforms)])


def fits(filename: str, python: str, platform: Platform) -> bool:
    """Whether a file is a wheel that this interpreter accepts."""
    try:
        tags = parse_wheel_filename(filename)[3]
    except InvalidWheelFilename:
        return False
    return not tags.isdisjoint(supported_tags(python, platform))
