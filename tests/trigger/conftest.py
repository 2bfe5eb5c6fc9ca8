"""An event, and a place where training ran with fakes for everything that starts something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kbuild.process import Completed
from kbuild.trigger.event import TrainingEvent
from kbuild.trigger.fire import Site


@dataclass
class Programs:
    """Remembers what was started and run instead of doing it."""

    code: int = 0
    stdout: str = ""
    stderr: str = ""
    started: list[tuple[list[str], dict[str, str], Path]] = field(default_factory=list)
    ran: list[tuple[list[str], dict[str, str]]] = field(default_factory=list)

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()) -> Any:
        self.started.append((list(argv), dict(env), log))
        return type("Process", (), {"pid": 4242})()

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any) -> Completed:
        self.ran.append((list(argv), dict(env or {})))
        return Completed(tuple(argv), self.code, self.stdout, self.stderr)


@pytest.fixture
def event() -> TrainingEvent:
    return TrainingEvent(
        run_id="a" * 32,
        model_id="m-" + "b" * 32,
        model_uri="models:/m-" + "b" * 32,
        model_name="model",
        tracking_uri="https://me:secret@mlflow.example/x",
        project="shop",
        git_commit="c" * 40,
        git_dirty=True,
    )


@pytest.fixture
def programs() -> Programs:
    return Programs()


@pytest.fixture
def site(tmp_path: Path, programs: Programs) -> Site:
    return Site(
        project=tmp_path,
        state=tmp_path / ".kbuild",
        tracking_uri="https://me:secret@mlflow.example/x",
        environ={"PATH": "/bin"},
        remotes={},
        run=programs.run,
        start=programs.start,
    )
