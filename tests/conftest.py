"""For all cheap tests: nothing stays behind in the machine's temporary folder or in the checkout."""

import fcntl
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import partialmethod
from inspect import signature
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import settings

ROOT = Path(__file__).parent.parent
# Helpers beside the tests: pytest's importlib mode leaves the folder off.
sys.path.insert(0, str(ROOT / "tests"))
# Random cases: ``pytest --hypothesis-profile=thorough`` tries more of them.
settings.register_profile("cheap", max_examples=40)
settings.register_profile("thorough", max_examples=400)
settings.load_profile("cheap")

# What MLflow makes below the working directory where nobody told it another place.
STORES = ("mlruns", "mlartifacts", "mlflow.db")


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder of this session's own, with a short name: sockets are made in it."""
    tmp_path_factory.getbasetemp()  # stays where it is, to be looked into after a failure
    before, there = os.environ.get("TMPDIR"), [name for name in STORES if (ROOT / name).exists()]
    folder = tempfile.mkdtemp(prefix="kbuild-t-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    state, os.environ["XDG_STATE_HOME"] = os.environ.get("XDG_STATE_HOME"), f"{folder}/state"
    # MLflow keeps artifacts below the working directory where a database's experiment has no other place.
    home = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(home)
    tempfile.tempdir = None
    if before is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before
    if state is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = state
    shutil.rmtree(folder, ignore_errors=True)
    assert [name for name in STORES if (ROOT / name).exists()] == there, "a test left MLflow's files in the checkout"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> bytes:
    """An empty sqlite store of this MLflow, made once for all workers: to make its tables takes seconds."""
    base = tmp_path_factory.getbasetemp()
    kept = (base if worker_id == "master" else base.parent) / "migrated.db"
    with warnings.catch_warnings():
        # MLflow warns about its own dependencies while it is imported, and SQLAlchemy of MLflow's tables at their first
        # use.
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.store.db.utils
        from sqlalchemy.orm import configure_mappers

        configure_mappers()
        with kept.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                mlflow.MlflowClient(f"sqlite:///{base}/making.db").search_experiments()
                (base / "making.db").rename(kept)
    return kept.read_bytes()


@pytest.fixture(scope="session", autouse=True)
def servers_that_are_down_stay_down() -> Iterator[None]:
    """Nobody waits seconds for one to listen again; that it is waited for is what test_http.py shows."""
    from kbuild import http

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "_REFUSED", 0.3)
        patch.setattr(http, "_BACKOFF", 0.01)
        yield


@pytest.fixture(autouse=True)
def answers_apart_from_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """click 8.1, which Kedro 1.0 asks for, mixes stderr into stdout unless told not to; later ones never do."""
    if "mix_stderr" in signature(CliRunner.__init__).parameters:
        monkeypatch.setattr(CliRunner, "__init__", partialmethod(CliRunner.__init__, mix_stderr=False))
