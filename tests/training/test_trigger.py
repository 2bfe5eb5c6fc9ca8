from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from kbuild.hooks import start_trigger as following
from kbuild.hooks.start_trigger import follow
from kbuild.project.config import ProjectConfig
from kbuild.recording.record import RecordedModel
from kbuild.recording.run.git import GitState
from kbuild.trigger.trigger_settings import CommandTrigger, WebhookTrigger

pytestmark = pytest.mark.filterwarnings("ignore")
HOOK = WebhookTrigger(url="http://127.0.0.1:9/x", retries=0)


def recorded(run_id: str) -> RecordedModel:
    return RecordedModel(run_id=run_id, model_id="m-1", model_uri="models:/m-1", name="model", reused=())


def tell(config: ProjectConfig, run_id: str, uri: str) -> str:
    return follow(config, recorded(run_id), tracking_uri=uri, project="shop", git=GitState(commit="c", dirty=False))


def make_run(store: mlflow.MlflowClient, *, ended: bool) -> str:
    run_id: str = store.create_run("0").info.run_id
    if ended:
        store.set_terminated(run_id)
    return run_id


NAMED = """
import os, sys
from pathlib import Path
from kbuild.hooks.start_trigger import follow
from kbuild.project.config import ProjectConfig

os.environ["MLFLOW_TRACKING_URI"] = sys.argv[1]  # as mlflow.set_tracking_uri does for processes that it starts
class Recorded:
    run_id = "ab07"
print(follow(ProjectConfig(root=Path(sys.argv[2])), Recorded, tracking_uri=sys.argv[1], project="shop", git=None))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "uri", "typed"),
    [
        (None, "sqlite:///{root}/mlflow.db", "kbuild image"),
        (None, "sqlite:///mlflow.db", "kbuild image"),  # the same, as seen from the project
        ("http://127.0.0.1:9", "http://127.0.0.1:9", "kbuild image"),
        # kedro-mlflow's mlflow.yml, or the project's settings: no command that is typed next knows of it.
        (None, "sqlite:///other store.db", "MLFLOW_TRACKING_URI='sqlite:///other store.db' kbuild image"),
        ("http://127.0.0.1:8", "http://127.0.0.1:9", "MLFLOW_TRACKING_URI=http://127.0.0.1:9 kbuild image"),
        (None, "http://me:hush@127.0.0.1:9", "MLFLOW_TRACKING_URI='http://***@127.0.0.1:9' kbuild image"),
    ],
)
def test_without_a_trigger_what_is_typed_next_finds_the_model(
    tmp_path: Path, shell: str | None, uri: str, typed: str
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\npackage_name = 'shop'\n")
    environ = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environ |= {} if shell is None else {"MLFLOW_TRACKING_URI": shell}
    argv = [sys.executable, "-c", NAMED, uri.format(root=tmp_path), tmp_path]
    line = subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert line.startswith(f"Next: {typed} builds its image and checks it")
    assert "hush" not in line
    # A project that was installed has no folder of its own.
    (tmp_path / "pyproject.toml").unlink()
    installed = subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert installed == line.replace("kbuild image", "kbuild image ab07")
    assert line.endswith("it\n") or f"commands look in {shell or f'sqlite:///{tmp_path}/mlflow.db'})" in line


def test_a_receiver_that_is_down_does_not_fail_training(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBUILD_WEBHOOK_SECRET", "hush")
    config = ProjectConfig(root=tmp_path, state=tmp_path / "state", trigger=HOOK, remotes={"webhook": HOOK})
    line = tell(config, make_run(store, ended=True), store.tracking_uri)
    assert line.startswith("Trigger webhook: webhook was not told: 127.0.0.1:9 does not answer")
    assert line.endswith("(it is kept; send it again with: kbuild trigger --flush). The model is logged all the same.")
    assert len(list((tmp_path / "state" / "outbox").glob("*.json"))) == 1


def test_a_tracking_server_that_fails_does_not_fail_training(tmp_path: Path, store: mlflow.MlflowClient) -> None:
    config = ProjectConfig(root=tmp_path, trigger=HOOK)
    line = tell(config, "f" * 32, store.tracking_uri)
    assert "does not tell of run" in line and "logged all the same" in line


def test_a_defect_does_not_fail_training(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> str:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(following, "fire", fail)
    config = ProjectConfig(root=tmp_path, trigger=CommandTrigger(argv=("x",)))
    line = tell(config, make_run(store, ended=True), store.tracking_uri)
    assert line == "Trigger command: ZeroDivisionError: on purpose. The model is logged all the same."


@pytest.mark.parametrize("ended", [True, False])
def test_whether_the_run_has_ended_is_asked(
    ended: bool, store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def fire(*arguments: Any, ended: bool) -> str:
        asked.append(ended)
        return "done"

    monkeypatch.setattr(following, "fire", fire)
    config = ProjectConfig(root=tmp_path, trigger=HOOK)
    assert tell(config, make_run(store, ended=ended), store.tracking_uri) == "Trigger webhook: done"
    assert asked == [ended]
