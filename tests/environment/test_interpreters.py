"""The interpreter of the version that trained a model is found, wherever this machine has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kbuild.environment.captured.interpreters import find_interpreter, find_program, running_interpreter
from kbuild.errors import InterpreterCaptureFailed
from kbuild.process import run

RUNNING = ".".join(map(str, sys.version_info[:3]))


def write_python(folder: Path, version: str, **said: Any) -> Path:
    """A program that answers as a CPython of that version does, with an executable at its prefix."""
    short = ".".join(version.split(".")[:2])
    program = folder / "bin" / f"python{short}"
    program.parent.mkdir(parents=True)
    facts = {
        "version": version,
        "implementation": "cpython",
        "platform": "linux",
        "flags": "",
        "libc": "glibc",
        "level": "final",
        "prefix": str(folder),
        "stdlib": str(folder / "lib" / f"python{short}"),
        **said,
    }
    program.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "PATH": os.defpath, **more}


def test_the_running_one_comes_first() -> None:
    assert find_interpreter(RUNNING, run=run) == running_interpreter()
    assert find_program(RUNNING.rpartition(".")[0], run=run) == Path(sys.executable)


@pytest.mark.parametrize(
    ("place", "variable"),
    [
        (".pyenv/versions/3.98.7", None),
        ("elsewhere/versions/3.98.7", "PYENV_ROOT"),
        (".local/share/uv/python/cpython-3.98.7-linux-x86_64-gnu", None),
        ("elsewhere/cpython-3.98.7", "UV_PYTHON_INSTALL_DIR"),
        ("anywhere", "PATH"),
    ],
)
def test_one_that_is_installed_besides(tmp_path: Path, place: str, variable: str | None) -> None:
    folder = tmp_path / "home" / place
    program = write_python(folder, "3.98.7")
    values = {"PYENV_ROOT": folder.parent.parent, "UV_PYTHON_INSTALL_DIR": folder.parent, "PATH": program.parent}
    more = {} if variable is None else {variable: str(values[variable])}
    found = find_interpreter("3.98.7", run=run, environ=environ(tmp_path, **more))
    assert (found.version, found.executable, found.prefix) == ("3.98.7", program, folder)
    assert find_program("3.98", run=run, environ=environ(tmp_path, **more)) == program


def test_none_of_that_version(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_python(home / ".pyenv/versions/3.98.2", "3.98.2")
    write_python(home / ".pyenv/versions/3.98.7t", "3.98.7", flags="t")
    write_python(home / ".pyenv/versions/3.98.7-musl", "3.98.7", libc="")
    write_python(home / ".pyenv/versions/3.98.7rc1", "3.98.7", level="candidate")
    broken = write_python(home / ".pyenv/versions/broken", "3.98.7")
    broken.write_text("#!/bin/sh\necho 'pyenv: python3.98: command not found' >&2; exit 127\n", encoding="utf-8")
    with pytest.raises(InterpreterCaptureFailed) as caught:
        find_interpreter("3.98.7", run=run, environ=environ(tmp_path))
    assert caught.value.message == (
        "the model was trained with Python 3.98.7, which is not on this machine; here are: "
        + ", ".join(sorted([RUNNING, "3.98.2"], key=lambda each: [int(part) for part in each.split(".")]))
    )
    assert "uv python install 3.98.7" in (caught.value.hint or "")
    assert "--interpreter conda" in (caught.value.hint or "")
    assert find_program("3.97", run=run, environ=environ(tmp_path)) is None


def test_a_real_one_beside_the_running_one() -> None:
    """Where pyenv has another version; what that one says of itself is asked of it in another way."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    others = sorted(
        path for path in versions.glob("3.*/bin/python3") if path.parent.parent.name.replace(".", "").isdigit()
    )
    others = [path for path in others if path.parent.parent.name != RUNNING]
    if not others:
        pytest.skip("pyenv has no other Python here")
    version = others[0].parent.parent.name
    found = find_interpreter(version, run=run)
    assert found.version == version
    assert (found.stdlib / "os.py").is_file()
    said = subprocess.run([found.executable, "-V"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"Python {version}"
