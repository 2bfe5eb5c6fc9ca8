"""The CPythons of this machine: the one that runs, those on the PATH, and those that pyenv and uv installed.

A model is served by the very version that trained it, which need not be the one that builds its image.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import InterpreterCaptureFailed, ProgramNotFound
from kbuild.files import expand_home
from kbuild.process import Runner

# Asked of each interpreter by itself; what it says is an ``_Asked``, as JSON.
_QUESTION = """
import json, os, platform, sys, sysconfig
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3], "implementation": sys.implementation.name,
    "platform": sys.platform, "flags": sys.abiflags, "libc": platform.libc_ver()[0], "level": sys.version_info[3],
    "prefix": sys.base_prefix, "stdlib": sysconfig.get_path("stdlib"),
}))
"""
# Seconds that an interpreter has to answer; some names on a PATH start something else.
_PATIENCE = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class InterpreterLayout:
    """Where an installed CPython keeps what is needed of it."""

    version: str
    executable: Path
    stdlib: Path
    prefix: Path


def running_interpreter() -> InterpreterLayout:
    """The layout of the CPython that runs now, below any virtual environment.

    Raises InterpreterCaptureFailed for what is no plain CPython on Linux.
    """
    if sys.implementation.name != "cpython" or sys.platform != "linux" or sys.abiflags:
        kind = f"{sys.implementation.name}{sys.abiflags} on {sys.platform}"
        raise InterpreterCaptureFailed(f"only a release build of CPython on Linux can be captured, not {kind}")
    if platform.libc_ver()[0] != "glibc":
        raise InterpreterCaptureFailed("only an interpreter linked with glibc can be captured")
    short = sysconfig.get_python_version()
    executable = Path(sys.base_prefix) / "bin" / f"python{short}"
    if not executable.exists():
        raise InterpreterCaptureFailed(f"the interpreter is not where its prefix says: {executable} does not exist")
    return InterpreterLayout(
        version=".".join(map(str, sys.version_info[:3])),
        executable=executable.resolve(),
        stdlib=Path(sysconfig.get_path("stdlib")),
        prefix=Path(sys.base_prefix),
    )


def find_interpreter(python: str, *, run: Runner, environ: Mapping[str, str] | None = None) -> InterpreterLayout:
    """The CPython ``python`` (``3.11.7``) of this machine: the running one, else one that is installed besides.

    Raises InterpreterCaptureFailed naming the versions that are here when none is that one.
    """
    # One that cannot be captured itself may run beside one that can.
    if _running() == python:
        return running_interpreter()
    found = {_running()}
    for layout in _others(python, run, os.environ if environ is None else environ):
        if layout.version == python:
            return layout
        found.add(layout.version)
    raise InterpreterCaptureFailed(
        f"the model was trained with Python {python}, which is not on this machine; here are: "
        f"{', '.join(sorted(found, key=_numbers))}",
        hint=f"install it (uv python install {python}, or pyenv install {python}), run kbuild where it is, "
        "or take the interpreter from a channel (--interpreter conda)",
    )


def find_program(short: str, *, run: Runner, environ: Mapping[str, str] | None = None) -> Path | None:
    """A program that is CPython ``short`` (``3.11``), of any patch release; None: there is none."""
    if _running().startswith(f"{short}."):
        return Path(sys.executable)
    others = _others(short, run, os.environ if environ is None else environ)
    return next((each.executable for each in others if each.version.startswith(f"{short}.")), None)


def _others(python: str, run: Runner, environ: Mapping[str, str]) -> Iterator[InterpreterLayout]:
    """Installed ones, those of the minor version of ``python`` only; each once."""
    seen: set[Path] = set()
    for program in _programs(".".join(python.split(".")[:2]), environ):
        # A wrapper (pyenv's) is asked, whatever file it is; what it starts is known by what it says.
        if (layout := _ask(program, run, environ)) is not None and layout.prefix not in seen:
            seen.add(layout.prefix)
            yield layout


def _programs(short: str, environ: Mapping[str, str]) -> Iterator[Path]:
    name = f"python{short}"
    home = Path(environ.get("HOME") or expand_home("~"))
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    roots = [
        Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
        Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python"),
    ]
    for root in roots:
        yield from sorted(root.glob(f"*/bin/{name}"))
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        if (found := shutil.which(name, path=folder)) is not None:
            yield Path(found)


def _ask(program: Path, run: Runner, environ: Mapping[str, str]) -> InterpreterLayout | None:
    """The layout of a CPython that can be captured; None for any other program, or one that does not start."""
    clean = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
    try:
        done = run([str(program), "-I", "-S", "-c", _QUESTION], env=clean, timeout=_PATIENCE)
        said = json.loads(done.stdout) if done.returncode == 0 else {}
    except (ProgramNotFound, TimeoutError, json.JSONDecodeError, OSError):
        return None
    wanted = {"implementation": "cpython", "platform": sys.platform, "flags": "", "libc": "glibc", "level": "final"}
    if not isinstance(said, dict) or any(said.get(key) != value for key, value in wanted.items()):
        return None
    short = ".".join(str(said["version"]).split(".")[:2])
    executable = Path(said["prefix"]) / "bin" / f"python{short}"
    if not executable.exists():
        return None
    return InterpreterLayout(
        version=str(said["version"]),
        executable=executable.resolve(),
        stdlib=Path(said["stdlib"]),
        prefix=Path(said["prefix"]),
    )


def _running() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
