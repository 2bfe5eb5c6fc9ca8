"""What an image will have of the interpreter's folders: its program, its standard library, its libraries."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path

from kbuild.files import expand_home
from kbuild.recording.around.conda import find_conda_names, is_conda
from kbuild.recording.around.standard_library import find_library_names

# Prefixes that hold more than an interpreter.
SHARED_PREFIXES = {Path("/"), Path("/usr"), Path("/usr/local"), expand_home("~")}
_PROGRAM = re.compile(r"python[\d.]*")
_LIBRARY = re.compile(r"lib.*\.so[\d.]*")


def find_interpreter_paths() -> list[str]:
    """Folders and files without which this interpreter does not start."""
    found: list[Path] = []
    for prefix in _prefixes():
        for each in dict.fromkeys((prefix, prefix.resolve())):
            if each not in SHARED_PREFIXES:
                found.append(each)
    program = Path(sys.executable)
    while True:
        found += [program] if not any(program.is_relative_to(each) for each in found) else []
        if not program.is_symlink():
            break
        program = program.parent / program.readlink()
    found += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    library = sysconfig.get_config_var("LDLIBRARY"), sysconfig.get_config_var("LIBDIR")
    if all(library):
        found += list(Path(str(library[1])).glob(f"{library[0]}*"))
    kept: list[Path] = []
    for each in found:
        if not any(each.is_relative_to(other) for other in kept):
            kept.append(each)
    return [str(each) for each in kept]


def find_interpreter_names(owned: Collection[Path]) -> Iterator[tuple[Path, set[str]]]:
    """What is there of each of its folders, outermost first: not what programs downloaded or somebody put into them.

    ``owned`` are folders of packages, and what the distributions that an image will have put beside them.
    """
    for prefix in _prefixes():
        if prefix.resolve() in SHARED_PREFIXES or prefix in SHARED_PREFIXES:
            continue
        if is_conda(prefix):
            yield from find_conda_names(prefix, owned)
            continue
        own = {prefix / "pyvenv.cfg", *owned, *_stdlib_folders(), *_matching(prefix / "bin", _PROGRAM)}
        own |= {each for name in ("lib", "lib64") for each in _matching(prefix / name, _LIBRARY)}
        for place in dict.fromkeys((prefix, prefix.resolve())):
            for outer in (prefix, prefix / "bin", prefix / "lib", prefix / "share"):
                parts = {each.relative_to(outer).parts[0] for each in own if outer in each.parents}
                names = {name for name in parts if (outer / name).exists()}
                if prefix == outer and (prefix / "lib64").is_symlink():
                    names.add("lib64")
                if outer == prefix or names:
                    yield place / outer.relative_to(prefix), names
    conda = [prefix for prefix in _prefixes() if is_conda(prefix)]
    for folder in dict.fromkeys(map(Path, (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")))):
        if folder.is_dir() and not any(folder.is_relative_to(prefix) for prefix in conda):
            yield from find_library_names(folder)


def _prefixes() -> list[Path]:
    return list(dict.fromkeys(map(Path, (sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix))))


def _stdlib_folders() -> set[Path]:
    """By the names that a virtual environment has for them, too."""
    found = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    base = Path(sys.base_prefix)
    return found | {Path(sys.prefix) / each.relative_to(base) for each in found if each.is_relative_to(base)}


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [each for each in folder.iterdir() if pattern.fullmatch(each.name)] if folder.is_dir() else []
