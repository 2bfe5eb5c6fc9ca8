"""Hostile input to the commands: each ends in one line with its exit code, soon, and in little memory."""

from __future__ import annotations

import inspect
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

# Helpers beside the tests are importable: pytest's importlib mode leaves the folders off sys.path.
sys.path.insert(0, str(Path(__file__).parent))

from hostile_inputs import CORPUS, Hostile

from kbuild.cache.scratch import remove_tree
from kbuild.cli.app import cli, report
from kbuild.errors import UnexpectedError

_MEMORY = 100 << 20  # bytes that Python's objects may take


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///not-there.db")

    def call(*argv: str) -> int:
        try:
            cli.main([*argv], standalone_mode=False)
        except UnexpectedError as error:  # pragma: no cover
            raise AssertionError("a defect in kbuild") from error
        except Exception as error:  # noqa: BLE001  as the last place of the command line does
            return report(error)
        return 0

    return call


@pytest.mark.parametrize("case", [case for case in CORPUS if not case.heavy], ids=lambda case: case.name)
def test_hostile_input_is_one_line(
    case: Hostile,
    command: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    argv = case.lay(folder)
    monkeypatch.chdir(folder)
    tracemalloc.start()
    try:
        code = command(*argv)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    said = capsys.readouterr()
    case.check(code, said.out, said.err)
    assert most < _MEMORY, f"{most >> 20} MiB"


@pytest.mark.slow
def test_a_tree_that_is_deeper_than_python_calls_is_removed(tmp_path: Path) -> None:
    (tmp_path / "tree" / ("d/" * 200)).mkdir(parents=True)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        remove_tree(tmp_path / "tree")
    finally:
        sys.setrecursionlimit(limit)
    assert not (tmp_path / "tree").exists()
