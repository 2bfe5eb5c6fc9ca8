"""Which files of its packages a slim image is without. Two rules, and no guess about what a model might need:

1. What serves developers alone: folders of tests, stubs for type checkers, sources and headers of C and Cython, and
   archives for linkers. A folder of which the model read a file stays; so do all stubs of a package of which one was
   read, and so on.
2. Of the packages that nobody but MLflow asked for and that the model read: large extension modules that nothing
   imported, the libraries that only those need, and second names of a library for linkers. Whatever a file that stays
   needs, stays, and so does all of a package that is there only because another one asks for it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.environment.captured.elf import is_elf, linked_names
from kbuild.environment.lockfile import LockedPackage
from kbuild.plan.left_out import EVERY, LeftOut, find_folders, select_files
from kbuild.plan.split import WheelFacts

_FOLDERS = ("test", "tests")
_STUBS = "*.pyi"
_ENDINGS = (
    "*.a", "*.c", "*.cc", "*.cpp", "*.cxx", "*.h", "*.hh", "*.hpp", "*.hxx", "*.pxd", "*.pxi", _STUBS, "*.pyx",
)  # fmt: skip

LARGE = 1_000_000
"""Bytes from which a library is worth leaving out."""

# What reads the stubs beside a module when it is imported.
_STUB_READER = "lazy-loader"
_SITE = "site/"
_LIBRARY = re.compile(r"\.so(\.[0-9.]+)?$")
_MODULE = re.compile(r"\.(cpython-\d+\w*-[\w-]+|abi3)\.so$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """A shared library or extension module: what it needs by name, and its own name if it has one.

    ``idle``: nothing loaded it, but other files of its package, which nobody but MLflow asked for. ``size`` in bytes.
    """

    size: int
    needs: frozenset[str]
    soname: str | None
    idle: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesLeftOut:
    """What patterns come to: how many files of how many bytes, bytecode not counted, and those named one by one."""

    count: int
    size: int
    named: tuple[str, ...]


def choose_files(
    facts: Mapping[LockedPackage, WheelFacts], read: Iterable[str], asked: frozenset[LockedPackage], site: Path
) -> dict[str, tuple[str, ...]]:
    """The patterns of the files that these packages can do without, as ``LeftOut.files`` has them.

    ``read`` are paths as ``WheelFacts`` has them; ``asked`` are the packages that not only MLflow asks for; ``site`` is
    the folder where all packages lie.
    """
    read = frozenset(read)
    chosen = choose_patterns(facts, read)
    loaded = _inside_site(read)
    owners = {path: package for package in facts for path in _inside_site(facts[package].paths)}
    used = {owners[path] for path in loaded if path in owners} - asked
    libraries = {}
    for path in sorted(path for path in owners if _LIBRARY.search(path)):
        if is_elf(site / path):
            needs, soname = linked_names(site / path)
            idle = path not in loaded and owners[path] in used
            size = (site / path).stat().st_size
            libraries[path] = Library(size=size, needs=needs, soname=soname, idle=idle)
    for path in sorted(choose_libraries(libraries)):
        name = canonicalize_name(owners[path].name)
        chosen[name] = (*chosen.get(name, ()), path)
    return chosen


def measure_files(facts: Mapping[LockedPackage, WheelFacts], left_out: LeftOut, site: Path) -> FilesLeftOut:
    """How much of these packages the patterns leave out; ``site`` as in ``choose_files``."""
    gone = [
        path
        for package in facts
        for path in select_files(_inside_site(facts[package].paths), left_out.patterns(package.name))
        # A wheel may bring bytecode, which is not installed.
        if "__pycache__" not in path.split("/")
    ]
    return FilesLeftOut(
        count=len(gone),
        size=sum((site / path).lstat().st_size for path in gone),
        named=tuple(sorted({*gone} & {pattern for each in left_out.files.values() for pattern in each})),
    )


def choose_patterns(facts: Mapping[LockedPackage, WheelFacts], read: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The patterns of the first rule: those for every package, and what stays of those of which something was read.

    ``read`` are paths as ``WheelFacts`` has them.
    """
    read = _inside_site(read)
    chosen: dict[str, tuple[str, ...]] = {EVERY: (*(f"{name}/" for name in _FOLDERS), *_ENDINGS)}
    for package in facts:
        paths = _inside_site(facts[package].paths)
        seen = paths & read
        stays = {f"!{folder}/" for folder in find_folders(paths, _FOLDERS) if any(_below(seen, folder))}
        stays |= {f"!{ending}" for ending in _ENDINGS if any(path.endswith(ending[1:]) for path in seen)}
        if _STUB_READER in {canonicalize_name(name) for name, _ in package.dependencies}:
            stays.add(f"!{_STUBS}")
        if stays:
            chosen[canonicalize_name(package.name)] = tuple(sorted(stays))
    return chosen


def choose_libraries(libraries: Mapping[str, Library]) -> frozenset[str]:
    """Those of all libraries, by path, that the second rule leaves out.

    They are the large ones among the idle that nothing else needs, and whatever could not be loaded without them.
    """
    users: dict[str, set[str]] = {}
    for path, library in libraries.items():
        for name in library.needs:
            users.setdefault(name, set()).add(path)
    gone = {path for path, library in libraries.items() if library.idle}
    while held := {
        path for path in gone if _is_held(path, libraries, users.get(posixpath.basename(path), set()), gone)
    }:
        gone -= held
    left_out = {path for path in gone if libraries[path].size >= LARGE}
    pending = list(left_out)
    while pending:
        further = (users.get(posixpath.basename(pending.pop()), set()) & gone) - left_out
        left_out |= further
        pending += further
    return frozenset(left_out)


def _is_held(path: str, libraries: Mapping[str, Library], users: set[str], gone: set[str]) -> bool:
    """Whether something that stays needs it, or might load it by its name at run time."""
    if users - gone:
        return True
    soname = libraries[path].soname
    second = soname not in (None, posixpath.basename(path)) and f"{posixpath.dirname(path)}/{soname}" in libraries
    return not users and not second and _MODULE.search(path) is None


def _below(paths: Iterable[str], folder: str) -> Iterable[bool]:
    return (path.startswith(f"{folder}/") for path in paths)


def _inside_site(paths: Iterable[str]) -> frozenset[str]:
    """Those of the paths of ``WheelFacts`` that are in site-packages, relative to it."""
    return frozenset(path.removeprefix(_SITE) for path in paths if path.startswith(_SITE))
