"""Bytecode for the image: ``.pyc`` files that are used whatever time their source shows (PEP 552, unchecked hash).

Without them a container compiles everything it imports at each start, for its file system is read-only.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from shutil import copyfile

from kbuild.digest import Digest, digest_file, digest_json
from kbuild.errors import BuildFailed, LockfileInvalid
from kbuild.platform import Platform, host_platform
from kbuild.process import Runner

_WORKER = Path(__file__).with_name("bytecode_worker.py")
# Bytecode depends on the interpreter and on the hash seed; nothing else of this machine's environment may count.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
_TESTS = r"/site-packages/.+/tests(/|$)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """An interpreter that makes the image's bytecode; ``identity`` changes when its output may."""

    python: Path
    identity: Digest


def bytecode_recipe(version: str, platform: Platform) -> str | None:
    """What decides the bytecode besides the sources, known before the interpreter is laid out; None: there is none.

    It names this machine's own version only where that one compiles for an interpreter of another patch release.
    """
    if platform == host_platform() or _running() == version:
        return recipe_digest().hex
    return f"{recipe_digest().hex} {_running()}" if _is_like_running(version) else None


def find_compiler(interpreter: Path, prefix: str, version: str, platform: Platform) -> Compiler | None:
    """What can compile for the interpreter that lies at ``prefix`` below ``interpreter``.

    The interpreter itself where it runs on this machine. For another platform the running one, if it is of the same
    minor version: bytecode does not depend on the processor, and its format not on the patch release. Otherwise None,
    and the image starts slower.
    """
    recipe = bytecode_recipe(version, platform)
    if recipe is None:
        return None
    if platform != host_platform():
        return Compiler(python=Path(sys.executable), identity=digest_json([version, recipe]))
    short = ".".join(version.split(".")[:2])
    python = interpreter / prefix.lstrip("/") / "bin" / f"python{short}"
    if not python.is_file():
        raise LockfileInvalid(f"the locked python {version} has no bin/python{short}")
    libraries = sorted(python.parent.parent.glob(f"lib/libpython{short}*.so*"))
    parts = [digest_file(path).hex for path in (python, *libraries)]
    return Compiler(python=python, identity=digest_json([version, parts, recipe_digest().hex]))


def recipe_digest() -> Digest:
    """Changes whenever the same source would be compiled to other bytes, or to none."""
    return digest_json([digest_file(_WORKER).hex, _TESTS])


def goes_without(folder: str) -> bool:
    """Whether the sources of an in-image folder get no bytecode: the tests that packages bring, which nothing imports.

    They are a quarter of what a model with pandas and scikit-learn would compile, and a third of its bytecode. They
    stay in the image and run there, compiled anew each time.
    """
    return re.search(_TESTS, folder) is not None


def compile_trees(
    roots: Sequence[Path], folder: str, compiler: Compiler, *, run: Runner, jobs: int = 1
) -> tuple[str, ...]:
    """Write bytecode for the ``.py`` files in the in-image ``folder`` below each of ``roots``, which stand for ``/``.

    Those that ``goes_without`` tells of get none.
    Returns the in-image paths of files that are not valid Python and got none. The bytes depend neither on
    the roots nor on ``jobs``. Raises BuildFailed when the interpreter does not run.
    """
    found = [pair for root in roots for pair in _sources(str(root), folder)]
    files, copies = _without_copies(found)
    if not files:
        return ()
    shares = [files[start::jobs] for start in range(min(jobs, len(files)))]
    with ThreadPoolExecutor(len(shares)) as pool:
        skipped = {path for share in pool.map(lambda share: _compile(share, compiler, run), shares) for path in share}
    for path, other in copies:
        for name in _made_of(other):
            folder = _cache_folder(path)
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103  paths cost more than the copy
            copyfile(f"{_cache_folder(other)}/{name}", f"{folder}/{name}")
    return tuple(sorted(skipped))


def _without_copies(files: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The files to compile, and each other with the one that its bytecode is that of.

    Bytecode depends on the source and on its path in the image alone, and packages that are parts of one another
    (mlflow, mlflow-skinny and mlflow-tracing) bring the same files.
    """
    first: dict[str, str] = {}
    kept, copies = [], []
    for path, shown in files:
        other = first.setdefault(shown, path)
        if other != path and cmp(other, path, shallow=False):
            copies.append((path, other))
        else:
            kept.append((path, shown))
    return kept, copies


def _made_of(source: str) -> list[str]:
    """The names of a source's bytecode, none where it is not valid Python (PEP 3147: ``name.tag.pyc``)."""
    stem = source.rpartition("/")[2].removesuffix(".py")
    try:
        names = os.listdir(_cache_folder(source))  # noqa: PTH208
    except FileNotFoundError:
        return []
    return [name for name in names if re.fullmatch(rf"{re.escape(stem)}\.[^.]+\.pyc", name)]


def _cache_folder(source: str) -> str:
    return f"{source.rpartition('/')[0]}/__pycache__"


def _running() -> str | None:
    return ".".join(map(str, sys.version_info[:3])) if sys.implementation.name == "cpython" else None


def _is_like_running(version: str) -> bool:
    # Before the final release of a minor version its bytecode still changes.
    final = sys.version_info.releaselevel == "final" and version.split(".")[-1].isdecimal()
    return final and (_running() or "").split(".")[:2] == version.split(".")[:2]


def _compile(files: Sequence[tuple[str, str]], compiler: Compiler, run: Runner) -> list[str]:
    # -S -s: no site-packages; -B: the interpreter must not write beside its own library, which is the cache's.
    argv = [str(compiler.python), "-S", "-s", "-B", "-W", "ignore", str(_WORKER)]
    done = run(argv, env=ENVIRONMENT, stdin=json.dumps({"parent": os.getpid(), "files": files}))
    if done.returncode != 0:
        reason = done.stderr.strip().rsplit("\n", 1)[-1] or f"exit code {done.returncode}"
        raise BuildFailed(
            f"the image's interpreter does not run here to compile its packages: {reason}",
            hint="its C library may be newer than this machine's; build on a machine like the one that trained",
        )
    skipped: list[str] = json.loads(done.stdout)["skipped"]
    return skipped


def _sources(root: str, folder: str) -> list[tuple[str, str]]:
    """Each file to compile and its path in the image."""
    found = []
    for directory, names, files in os.walk(f"{root}{folder}"):
        shown = directory[len(root) :]
        names[:] = sorted(name for name in names if name != "__pycache__" and not goes_without(f"{shown}/{name}"))
        found += [(f"{directory}/{name}", f"{shown}/{name}") for name in sorted(files) if name.endswith(".py")]
    return found
