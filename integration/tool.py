"""Running kbuild and its neighbours as a user does: as processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
PROJECT = Path(__file__).parent / "projects" / "diabetes"


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.out)

    @property
    def error_lines(self) -> list[str]:
        """What it says went wrong, progress left out."""
        lines = self.err.splitlines()
        start = next((i for i, line in enumerate(lines) if line.startswith("error: ")), len(lines))
        # The last may name a page of the documentation.
        return [line for line in lines[start:] if not line.startswith("  more: kbuild help ")]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """kbuild with a cache and, where given, a tracking uri of its own."""

    cache: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *argv: str | Path, cwd: Path | None = None, code: int | None = 0, **environment: str) -> Done:
        """``kbuild …``; fails the test when the exit code is not ``code`` (None: any)."""
        done = self.run([BIN / "kbuild", *argv], cwd=cwd, **environment)
        assert code is None or done.code == code, f"exit code {done.code}, not {code}\n{done.err[-4000:]}\n{done.out}"
        return done

    def run(self, argv: list[str | Path], *, cwd: Path | None = None, **environment: str) -> Done:
        """Any program in the same environment."""
        done = subprocess.run(
            [str(word) for word in argv], cwd=cwd, env=self.environ(**environment), capture_output=True, text=True
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def environ(self, **environment: str) -> dict[str, str]:
        """This process's environment without what would reach into other folders or servers."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "KBUILD_", "PYTHONPATH"))}
        for name in ("CI", "TF_BUILD"):  # jobs are not told what to type next
            inherited.pop(name, None)
        return {
            **inherited,
            "DO_NOT_TRACK": "1",
            # Tests that mean it say so: most ask the image themselves, or nothing of it.
            "KBUILD_VERIFY": "0",
            "KBUILD_CACHE_DIR": str(self.cache),
            # Some tests are other users, with another home, and take what the first one made.
            "KBUILD_CACHE_KEY": "a text of these tests alone",
            **self.environment,
            **environment,
        }


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A project folder with a logged run."""

    folder: Path
    run_id: str

    @property
    def model(self) -> Path:
        """The folder of the model that the run logged; other tests may train in the project too."""
        models = (self.folder / "mlartifacts" / "models").glob("*/artifacts")
        return next(path for path in models if self.run_id in (path / "MLmodel").read_text())


# What nobody should have to download or resolve again, and what was made of single packages.
SHARED = ("downloads", "debs", "channel", "locks", "base-records", "bases")
INSTALLED = ("wheels", "interpreters", "seals")


def cold(tool: Tool, folder: Path, *, keep: tuple[str, ...] = SHARED) -> Tool:
    """kbuild with a cache of its own that starts with copies of some parts of the session's."""
    link_parts(tool.cache, folder, keep)
    return Tool(cache=folder, environment=tool.environment)


def link_parts(source: Path, target: Path, parts: tuple[str, ...]) -> None:
    """Give a cache those parts of another that it has not; they take no room, and neither may change what is there."""
    for name in parts:
        if (source / name).is_dir() and not (target / name).exists():
            shutil.copytree(source / name, target / name, symlinks=True, copy_function=os.link)


def copy_project(target: Path, source: Path = PROJECT) -> Path:
    """A fresh copy of a project, without what runs leave behind."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.db", "mlartifacts"))
    return target


@contextmanager
def running(argv: list[str | Path], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, ended by its own pid."""
    with log.open("wb") as out:
        process = subprocess.Popen([str(word) for word in argv], stdout=out, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def served(tool: Tool, image: str, cwd: Path) -> Iterator[str]:
    """``kbuild run IMAGE``: yields the url it prints, and expects a clean end."""
    argv = [str(BIN / "kbuild"), "run", image]
    with subprocess.Popen(
        argv, cwd=cwd, env=tool.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            url = process.stdout.readline().strip()
            assert url, process.stderr.read()
            yield url
        finally:
            process.terminate()
            assert process.wait(30) == 0
