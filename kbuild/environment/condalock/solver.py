"""Which conda solver conda-lock calls: an installed one, else the built-in one."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

# In order of preference: the fastest first.
_PROGRAMS = ("micromamba", "mamba", "conda")
_BUILT_IN = "kbuild-solver"
_VERSION = "conda 24.1.0"  # whose command line it has


def find_solver(folder: Path, *, which: Callable[[str], str | None] = shutil.which) -> Path:
    """The path of a program with conda's command line.

    An installed micromamba, mamba or conda; else a script, written into ``folder``, that starts
    ``rattler_solver.py`` with this interpreter (conda-lock takes one path, not an argument list).
    """
    for program in _PROGRAMS:
        found = which(program)
        if found is not None:
            return Path(found)
    return write_built_in_solver(folder)


def write_built_in_solver(folder: Path) -> Path:
    """Write the script that starts the built-in solver; returns its path."""
    script = folder / _BUILT_IN
    # By path and with -P: it must start whatever the working directory and the module search path are.
    command = shlex.join([sys.executable, "-P", str(Path(__file__).with_name("rattler_solver.py"))])
    # conda-lock asks for the version first, only to see that something answers.
    answer = f'if [ "$*" = --version ]; then echo {_VERSION}; exit; fi'
    script.write_text(f'#!/bin/sh\n{answer}\nexec {command} "$@"\n')
    script.chmod(0o755)
    return script
