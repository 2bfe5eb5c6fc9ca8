"""Modules that a pickled model is made of, and that nothing would bring into its image: told before it is built.

A model that was logged by hand without ``code_paths`` has the project's functions by name, and not their code. Nothing
is unpickled: only the names that the pickle imports are read.
"""

from __future__ import annotations

import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from kbuild.audit.pickled.unwrap import Unreadable, pickle_streams
from kbuild.errors import InvalidModel
from kbuild.model.bundle import ModelBundle

_CODE = "code"
# Bytes: a pipeline is small. What carries its own data is left to the image, which is asked anyway.
_LARGE = 16 << 20
# What is there without anybody's code: also what Python 2 called so, which pickles of old protocols say.
_ALWAYS = {*sys.stdlib_module_names, *sys.builtin_module_names, *IMPORT_MAPPING, "__main__", "kbuild"}


def check_modules(
    bundle: ModelBundle, names: Iterable[str], wheels: Callable[[], Iterable[Path]], others: Callable[[], Iterable[str]]
) -> None:
    """Raises InvalidModel naming the modules that neither the model's code nor a package of the lock has.

    ``names`` are the locked packages' own; ``wheels`` their files and ``others`` the modules of what is no wheel, asked
    for where these names do not tell.
    """
    code = {PurePosixPath(file.path).parts[1] for file in bundle.files if file.path.startswith(f"{_CODE}/")}
    known = {each.partition(".")[0] for each in code} | _ALWAYS | {name.replace("-", "_") for name in names}
    lost = {name for name in _find_named(bundle) if name not in known}
    if lost:
        lost -= {part for wheel in wheels() for part in _find_modules(wheel)}
    if lost:
        lost -= set(others())
    if lost:
        listed = ", ".join(sorted(lost))
        paths = ", ".join(f'"src/{name}"' for name in sorted(lost))
        raise InvalidModel(
            f"the model imports {listed}, which neither its code nor any package of its environment has",
            hint=f"log it again with code_paths=[{paths}], the folder that holds it, or name the package that brings "
            "it in pip_requirements; the hook of kedro run does either by itself",
        )


def _find_named(bundle: ModelBundle) -> set[str]:
    """Top-level names of what the model's own pickle imports; none of one that cannot be read, or is large."""
    found: set[str] = set()
    for name in bundle.facts.pickled:
        path = bundle.root / name
        if not path.is_file() or path.stat().st_size > _LARGE:
            continue
        try:
            for stream in pickle_streams(path.read_bytes(), expected=True):
                if not stream.place and not stream.other and stream.fault is None:
                    found |= {module.partition(".")[0] for module, _ in stream.named}
        except Unreadable:
            continue
    return found


def _find_modules(wheel: Path) -> Iterator[str]:
    """Every name that a file or folder of it could be imported by: compiled modules call themselves by the last."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                yield from (part.partition(".")[0] for part in member.split("/"))
    except zipfile.BadZipFile:
        return  # whoever lays it out says so
