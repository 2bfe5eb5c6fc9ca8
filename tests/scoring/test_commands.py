"""``kbuild score`` and the archive's scorer: what is handed over, told, and raised."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import kbuild
from kbuild import ScoreOptions
from kbuild.cli.app import cli
from kbuild.errors import InvalidModel, KbuildError, UnexpectedError
from kbuild.scoring.errors import InputRefused, OtherAnswers, RowsFailed, WorkerLost

MANIFEST = {"rows": 5, "failed": 2, "reasons": {"ValueError: no": 2}, "parts": [{"file": "part-0"}]}
Scorer = Callable[[str], Path]


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """An archive whose scorer is this shell script; it writes down what it was given."""
    starter = tmp_path / "archive/bin/kbuild-score"
    starter.parent.mkdir(parents=True)
    for name in ("in", "in1.csv"):
        (tmp_path / name).touch()

    @contextmanager
    def unpacked(request: Any, tools: Any) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(folder=starter.parent.parent, tools=tools)

    monkeypatch.setattr("kbuild.workflow.batch.scoring.unpacked_model", unpacked)
    monkeypatch.setattr("kbuild.api.packing.take_model", lambda model, *_: model)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", "/somebody's")
    monkeypatch.chdir(tmp_path)

    def write(script: str) -> Path:
        starter.write_text(f'#!/bin/sh\nfor each; do echo "$each"; done > given\necho "$PYTHONPATH" > path\n{script}\n')
        starter.chmod(0o755)
        return tmp_path

    return write


def test_what_is_typed_is_handed_over_and_the_manifest_comes_back(scorer: Scorer) -> None:
    progress = '{"rows": 3, "total": 5, "rate": 100.0, "left": 4.2}'
    folder = scorer(f"echo '{progress}' >&2; echo 'a warning' >&2; echo noise; echo '{json.dumps(MANIFEST)}'")
    argv = ["score", "@latest", "in*.csv", "-out", "-j", "2", "--on-error", "null", "--params", '{"x": 1}', "-v", "--"]
    done = CliRunner().invoke(cli, [*argv[:1], *argv[4:-1], "--keep", "a,b", "--", *argv[1:4]])
    assert done.exit_code == 0, done.exception
    assert done.stdout == "-out\n"
    assert "100 rows/s, 4 s left" in done.stderr and "2 rows: ValueError: no" in done.stderr
    given = (folder / "given").read_text().splitlines()
    assert given[0] == "--progress=json" and given[-3:] == ["--", "in*.csv", "-out"]
    assert {*given[1:-3]} == {"--workers=2", "--on-error=null", "--keep=a,b", '--params={"x": 1}'}
    assert (folder / "path").read_text() == "\n", "the caller's Python does not matter"
    options = ScoreOptions(part_rows=7, batch_rows=3, format="csv", overwrite=True)
    assert kbuild.score("@latest", folder / "in", folder / "out", options) == MANIFEST
    given = (folder / "given").read_text().splitlines()
    assert {"--part-rows=7", "--batch-rows=3", "--format=csv", "--overwrite"} <= {*given}
    wrong = CliRunner().invoke(cli, ["score", "@latest", "in", "out", "--params", "[1]"])
    assert wrong.exit_code == 2 and "not a JSON object" in wrong.stderr


@pytest.mark.parametrize(
    ("code", "kind"),
    [(80, InputRefused), (81, RowsFailed), (82, OtherAnswers), (83, WorkerLost), (15, InvalidModel)],
)
def test_what_the_scorer_says_is_raised_as_what_it_is(scorer: Scorer, code: int, kind: type[KbuildError]) -> None:
    told = json.dumps({"error": [code, "it went wrong", "try this"]})
    scorer(f"echo '{told}' >&2; exit {code}")
    with pytest.raises(kind, match="it went wrong") as caught:
        kbuild.score("@latest", "in", "out")
    assert (caught.value.hint, caught.value.exit_code) == ("try this", code)


def test_a_scorer_that_ends_otherwise_is_told(scorer: Scorer) -> None:
    scorer("kill -9 $$")
    with pytest.raises(WorkerLost, match="signal 9"):
        kbuild.score("@latest", "in", "out")
    scorer("echo 'python: version GLIBC_2.99 not found' >&2; exit 1")
    with pytest.raises(UnexpectedError, match=r"GLIBC_2\.99 not found"):
        kbuild.score("@latest", "in", "out")
    assert os.environ["PYTHONPATH"] == "/somebody's"
