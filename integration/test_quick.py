"""What makes ``kbuild image`` quick: stores asked without MLflow's client answer alike, and little is imported."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import tracking_server
from tool import Tool, Trained

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "model"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own dependencies while it is imported
    from store_questions import Logged, check_answers, check_files, check_tags, log_everything

HEAVY = {"mlflow", "kedro", "docker", "pandas", "numpy", "sqlalchemy", "requests", "rich", "rattler"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> Iterator[Logged]:
    """A tracking server that passes artifacts on, with one of each case in it."""
    with tracking_server(tmp_path_factory.mktemp("mlflow-server"), tool) as uri:
        yield log_everything(uri, None)


@pytest.mark.filterwarnings("ignore")
def test_a_tracking_server_is_asked_as_by_mlflows_client(logged: Logged, tmp_path: Path) -> None:
    check_answers(logged, tmp_path)
    check_files(logged, tmp_path)
    check_tags(logged)


def test_a_build_of_what_is_there_imports_little(tool: Tool, trained: Trained) -> None:
    asked = {"KBUILD_VERIFY": "1"}  # as by default
    first = tool("image", trained.run_id, "--json", cwd=trained.folder, **asked).json
    assert (first["verified"], first["not_verified"]) == ("passed", None)
    begin = time.monotonic()
    again = tool("image", trained.run_id, cwd=trained.folder, **asked)
    took = time.monotonic() - begin
    watched = tool("image", trained.run_id, cwd=trained.folder, PYTHONPROFILEIMPORTTIME="1", **asked)
    assert first["reference"] == again.out.strip() == watched.out.strip()
    assert not [line for line in again.err.splitlines() if line.startswith("verify ")], (
        "it was verified when it was built"
    )
    assert "nothing has changed" in watched.err
    lines = [line for line in watched.err.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "kbuild.workflow.build" in imported
    heavy = {name.partition(".")[0] for name in imported} & HEAVY
    assert not heavy, heavy
    print(f"kbuild image of what is there: {took:.2f} s, {len(imported)} modules")
