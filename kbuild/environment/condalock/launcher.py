"""conda-lock's own command, with every manylinux tag known to it, and packages from all of pip's places; run as a
script of its own.

conda-lock 4 knows the tags 1, 2010, 2014, 2_17, 2_18, 2_24 and 2_28 alone (``MANYLINUX_TAGS`` in its
``pypi_solver.py``), so a wheel with any other one is no candidate, whatever the C library. The list is ascending, and
conda-lock itself leaves out what is newer than the virtual package ``__glibc``. It is a private name: where a release
has it no more, this stops instead of locking other wheels than were asked for.

Pages of indexes are asked for together, by another process (ahead.py), and read as far as they are needed (pages.py),
and markers that hold on the platform are let go of (settled.py), unless the variable ``WHOLE`` is set.

Format: PEP 600, and the order of ``packaging.tags`` (the name with a number before its legacy alias).
"""

from __future__ import annotations

import gc
import json
import os
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from kbuild.environment.condalock import ahead

WHOLE = "KBUILD_WHOLE_INDEX_PAGES"
"""The variable that makes conda-lock ask for pages one by one and read each whole: slower, for the same lock."""

# The second number of glibc 2.x: of the first one that PEP 600 names, and of one that is still far away.
_OLDEST, _NEWEST = 5, 99
_GIT = "conda_lock._vendor.poetry.vcs.git"


def manylinux_tags() -> list[str]:
    """Every tag behind ``manylinux``, ascending: ``1``, ``_2_5`` … ``2014``, ``_2_17``, ``_2_18`` …"""
    from kbuild.environment.index.wheel_tags import LEGACY

    old = {glibc: name.removeprefix("manylinux") for name, glibc in LEGACY.items()}
    tags = []
    for number in range(_OLDEST, _NEWEST + 1):
        tags += [old[2, number]] if (2, number) in old else []
        tags.append(f"_2_{number}")
    return tags


def main() -> None:
    """Run conda-lock with this process's arguments; SystemExit with what it says."""
    # Before anything that takes long: meanwhile the pages come.
    asks = Path(ahead.PLACES).is_file()
    coming = ahead.start(Path()) if asks and not os.environ.get(WHOLE) else None
    together = None
    gc.disable()  # a tenth of the time of a thousand imports goes into looking for what none of them leaves behind
    try:
        _prepare()
        _settle_markers()
        together = _find_packages(coming) if asks else None
        gc.freeze()
        gc.enable()
        _run()
    finally:
        if together is not None:
            together.stop()
        if coming is not None:
            coming.stop()


class _Deferred(type):
    """The class of a stand-in for poetry's ``Git``, which is imported when something of it is wanted."""

    def __getattr__(cls, name: str) -> Any:
        return getattr(import_module(f"{_GIT}.backend").Git, name)


def defer_git() -> None:
    """Have poetry import its git when a package comes from one: a quarter of what conda-lock imports to start."""
    found = find_spec("conda_lock")
    places = (
        [] if found is None else [Path(place, *_GIT.split(".")[1:]) for place in found.submodule_search_locations or ()]
    )
    if any((place / "backend.py").is_file() for place in places):
        module = ModuleType(_GIT)
        module.__dict__.update(__path__=[str(place) for place in places], Git=_Deferred("Git", (), {}))
        sys.modules[_GIT] = module


def _prepare() -> None:
    defer_git()
    from conda_lock import pypi_solver

    known = getattr(pypi_solver, "MANYLINUX_TAGS", None)
    if not isinstance(known, list) or not set(known) <= set(manylinux_tags()):
        sys.exit("kbuild does not know this version of conda-lock: its list of manylinux tags is another one")
    known[:] = manylinux_tags()
    for name in ("_prepare_repositories_pool", "_get_stripped_url"):
        if not hasattr(pypi_solver, name):
            sys.exit(f"kbuild does not know this version of conda-lock: it has no {name}")


def _settle_markers() -> None:
    from kbuild.environment.condalock import settled

    try:
        settled.complete_markers()
        settled.turn_comparisons()
    except AttributeError:
        sys.exit("kbuild does not know this version of conda-lock: its environments are other ones")
    if not os.environ.get(WHOLE):
        settled.install()


def _find_packages(coming: ahead.Ahead | None) -> Any:
    from conda_lock import pypi_solver

    from kbuild.environment.condalock import places

    packages = None if coming is None else json.loads(Path(ahead.PACKAGES).read_text("utf-8"))
    return places.install(pypi_solver, json.loads(Path(ahead.PLACES).read_text("utf-8")), packages, coming)


def _run() -> None:
    import yaml
    from conda_lock.conda_lock import main as run

    if hasattr(yaml, "CSafeLoader"):  # libyaml's: the same values of the same text, many times as fast
        yaml.safe_load = lambda stream: yaml.load(stream, yaml.CSafeLoader)
        # Its lines may break elsewhere: whoever started this reads the values, and writes a lock of its own.
        vars(yaml)["dump"] = partial(yaml.dump, Dumper=yaml.CDumper)
    run(prog_name="conda-lock")


if __name__ == "__main__":
    main()
