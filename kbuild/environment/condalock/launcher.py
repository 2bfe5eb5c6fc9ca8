"""conda-lock's own command, with every manylinux tag known to it, and packages from all of pip's places; run as a
script of its own.

conda-lock 4 knows the tags 1, 2010, 2014, 2_17, 2_18, 2_24 and 2_28 alone (``MANYLINUX_TAGS`` in its
``pypi_solver.py``), so a wheel with any other one is no candidate, whatever the C library. The list is ascending, and
conda-lock itself leaves out what is newer than the virtual package ``__glibc``. It is a private name: where a release
has it no more, this stops instead of locking other wheels than were asked for.

Pages of indexes are asked for together and read as far as they are needed (pages.py), unless the variable ``WHOLE``
is set.

Format: PEP 600, and the order of ``packaging.tags`` (the name with a number before its legacy alias).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from kbuild.environment.condalock.source import PACKAGES, PLACES
from kbuild.environment.index.wheel_tags import LEGACY

WHOLE = "KBUILD_WHOLE_INDEX_PAGES"
"""The variable that makes conda-lock ask for pages one by one and read each whole: slower, for the same lock."""

# The second number of glibc 2.x: of the first one that PEP 600 names, and of one that is still far away.
_OLDEST, _NEWEST = 5, 99


def manylinux_tags() -> list[str]:
    """Every tag behind ``manylinux``, ascending: ``1``, ``_2_5`` … ``2014``, ``_2_17``, ``_2_18`` …"""
    old = {glibc: name.removeprefix("manylinux") for name, glibc in LEGACY.items()}
    tags = []
    for number in range(_OLDEST, _NEWEST + 1):
        tags += [old[2, number]] if (2, number) in old else []
        tags.append(f"_2_{number}")
    return tags


def main() -> None:
    """Run conda-lock with this process's arguments; SystemExit with what it says."""
    from conda_lock import pypi_solver
    from conda_lock.conda_lock import main as run

    known = getattr(pypi_solver, "MANYLINUX_TAGS", None)
    if not isinstance(known, list) or not set(known) <= set(manylinux_tags()):
        sys.exit("kbuild does not know this version of conda-lock: its list of manylinux tags is another one")
    known[:] = manylinux_tags()
    for name in ("_prepare_repositories_pool", "_get_stripped_url"):
        if not hasattr(pypi_solver, name):
            sys.exit(f"kbuild does not know this version of conda-lock: it has no {name}")
    together = _find_packages(pypi_solver) if Path(PLACES).is_file() else None
    try:
        run(prog_name="conda-lock")
    finally:
        if together is not None:
            together.stop()


def _find_packages(pypi_solver: Any) -> Any:
    from kbuild.environment.condalock import places

    packages = None if os.environ.get(WHOLE) else json.loads(Path(PACKAGES).read_text("utf-8"))
    return places.install(pypi_solver, json.loads(Path(PLACES).read_text("utf-8")), packages)


if __name__ == "__main__":
    main()
