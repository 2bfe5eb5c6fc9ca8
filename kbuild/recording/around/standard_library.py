"""What an image will have of the standard library: not what somebody put into it, nor what images leave out.

Format: ``/var/lib/dpkg/info/PACKAGE.list`` has a path on each line (dpkg-query(1), ``--listfiles``).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path

from kbuild.recording.around.folders import find_more
from kbuild.recording.around.installed import add_paths, is_compiled

_LISTS, _PACKAGED = Path("/var/lib/dpkg/info"), Path("/usr/lib")
# Beside its modules.
_BESIDE = re.compile(
    r"lib-dynload|_sysconfigdata.*|_sysconfig_vars.*|config-\d.*|LICENSE\.txt|__phello__|__hello__\.py|pydoc_data"
    r"|site-packages|dist-packages|__pycache__|_distutils_system_mod\.py|build-details\.json"
)
# What an image has not of an interpreter that was captured (kbuild/environment/captured/capture.py).
_LEFT_OUT = re.compile(
    r"test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|turtle\.py|(_tkinter|nis|_test.*|_ctypes_test|_xx.*|xxl.*)\..*so"
)
_MARKS = ("os.py", "LICENSE.txt", "_sysconfigdata*.py", "_sysconfig_vars*.json")
# Seconds: so long an installer may write.
_LONGEST = 3600.0


def find_library_names(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """The folder, and those in it that hold more than what was installed with the interpreter, with what was.

    Debian's packages list their files. Elsewhere it is what was not written long after the interpreter itself.
    """
    listed = _read_lists(folder)
    written = _find_written(folder)
    for place in dict.fromkeys((folder, folder.resolve())):
        outermost, cut = str(place), len(str(place)) + 1

        def is_known(entry: os.DirEntry[str], outermost: str = outermost, cut: int = cut) -> bool:
            outer = os.path.dirname(entry.path)  # noqa: PTH120
            if _LEFT_OUT.fullmatch(entry.name) or (outer == outermost and not _is_of_library(entry.name)):
                return False
            if entry.is_dir(follow_symlinks=False):
                return True
            if outer.endswith("__pycache__"):
                return is_compiled(entry.name)
            if listed:
                return entry.name in listed.get(outer[cut:], ())
            return entry.stat(follow_symlinks=False).st_mtime <= written + _LONGEST

        yield from find_more(place, is_known)


def _is_of_library(name: str) -> bool:
    stem, dot, _ = name.partition(".")
    if stem in sys.stdlib_module_names:
        return not dot or name[len(stem) :] in all_suffixes()
    return _BESIDE.fullmatch(name) is not None


def _read_lists(folder: Path) -> dict[str, set[str]]:
    """By folder the names that Debian's packages have there; empty where the interpreter is none of theirs."""
    listed: dict[str, set[str]] = {}
    start = f"{folder}/"
    for path in _LISTS.glob("*python3*.list") if folder.is_relative_to(_PACKAGED) else ():
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        add_paths(listed, (line[len(start) :] for line in lines if line.startswith(start)))
    return listed if "os.py" in listed.get("", ()) else {}


def _find_written(folder: Path) -> float:
    """When the interpreter was put there, in seconds of the epoch: by files that every one has."""
    marks = [Path(sys.executable).resolve(), *(each for mark in _MARKS for each in folder.glob(mark))]
    return max((each.stat().st_mtime for each in marks if each.exists()), default=float("inf"))
