"""For all cheap tests: nothing stays behind in the machine's temporary folder or in the checkout."""

import email
import fcntl
import functools
import gc
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import partialmethod
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
# Helpers beside the tests: pytest's importlib mode leaves the folder off.
sys.path.insert(0, str(ROOT / "tests"))

from loaded import Loaded  # noqa: E402

# While the tests are imported, which is most of what a worker begins with, there is nothing to be collected.
gc.disable()
# Random cases: ``pytest --hypothesis-profile=thorough`` tries more of them.
# Others may use the machine: what takes long there is no fault.
calm: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("cheap", max_examples=40, **calm)
settings.register_profile("thorough", max_examples=400, **calm)
settings.load_profile("cheap")

# A disk waits for each file that a test writes and for each change of MLflow's tables; they take 2 GB.
MEMORY, ROOM = Path("/dev/shm"), 4e9
ENDED = pytest.StashKey[int]()
PYTHONS_OWN = json.JSONEncoder.default
# What MLflow makes below the working directory where nobody told it another place.
STORES = ("mlruns", "mlartifacts", "mlflow.db")


def has_room(folder: Path) -> bool:
    """Whether ``folder`` lies in memory that has room for what the tests write, programs among it."""
    if not folder.is_dir() or not os.access(folder, os.W_OK) or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    free = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text("utf-8"), re.MULTILINE)
    return free is not None and min(int(free[1]) * 1024, shutil.disk_usage(folder).free) > ROOM


def pytest_configure() -> None:
    """Tests write to memory where there is some, and to the disk where somebody names a place on it."""
    if not {"TMPDIR", "PYTEST_DEBUG_TEMPROOT"} & {*os.environ} and has_room(MEMORY):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)
    for name in ("CI", "TF_BUILD"):  # jobs are not told what to type next: the tests see what people do
        os.environ.pop(name, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """What they wrote to memory is kept only where one failed. The process that began the workers sees to that."""
    base = config._tmp_path_factory._basetemp  # type: ignore[attr-defined]
    first = base is not None and not hasattr(config, "workerinput")
    if first and base.is_relative_to(MEMORY) and config.stash.get(ENDED, 1) == 0:
        shutil.rmtree(base, ignore_errors=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[ENDED] = int(exitstatus)


def pytest_collection_finish() -> None:
    """The tests themselves, and what they import, are there to the end: nobody looks for garbage among them."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Garbage is collected between tests alone.

    What a test before left to the collector, a connection of MLflow's for one, cannot be ended from within input that
    is nested as deep as Python goes, and the test that reads it failed for it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder of this session's own, with a short name: sockets are made in it."""
    tmp_path_factory.getbasetemp()  # stays where it is, to be looked into after a failure
    before, there = os.environ.get("TMPDIR"), [name for name in STORES if (ROOT / name).exists()]
    folder = tempfile.mkdtemp(prefix="kbuild-t-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))
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
        utils = mlflow.store.db.utils
        # Each store of a test asks for it, and reads the 60 files of the migrations.
        if hasattr(utils, "_get_latest_schema_revision"):
            utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    return kept.read_bytes()


@pytest.fixture(scope="session")
def with_mlflow() -> Iterator[Loaded]:
    """Splits off processes that have MLflow, which takes seconds to import."""
    from kbuild.recording.surroundings import make_variables

    with Loaded("mlflow.pyfunc", "mlflow.pyfunc.scoring_server", env={**os.environ, **make_variables()}) as loaded:
        yield loaded


@pytest.fixture(scope="session", autouse=True)
def servers_that_are_down_stay_down() -> Iterator[None]:
    """Nobody waits seconds for one to listen again; that it is waited for is what test_http.py shows."""
    from kbuild import http
    from kbuild.environment.index import download
    from kbuild.image.registry import client, upload

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "_PASSING", 0.3)
        patch.setattr(http, "_BACKOFF", 0.01)
        patch.setattr(client, "_BACKOFF_SECONDS", 0.01)
        patch.setattr(upload, "_BACKOFF_SECONDS", 0.01)
        patch.setattr(download, "_RETRY", download._RETRY.new(backoff_factor=0.01))
        yield


@pytest.fixture(scope="session", autouse=True)
def what_others_make_anew_each_time_is_made_once() -> Iterator[None]:
    """What packages say of themselves, and the revisions of MLflow's tables: the same for as long as the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        # For importlib.metadata, which parses a whole readme for a version and copies what it is given.
        patch.setattr(email, "message_from_string", functools.lru_cache(maxsize=1000)(email.message_from_string))
        yield


@functools.cache
def _documented(command: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = json.loads((ROOT / "kbuild" / "docs" / "output.schema.json").read_text("utf-8"))
    assert command in schema["$defs"], f"no page says what kbuild {command} --json prints"
    return Draft202012Validator({"$ref": f"#/$defs/{command}", "$defs": schema["$defs"]})


@pytest.fixture(scope="session", autouse=True)
def what_json_is_printed_is_as_documented() -> Iterator[None]:
    """Every document that a command prints in a test, whatever the test is about, has the form that users are told."""
    whole = CliRunner.invoke

    def invoke(self: CliRunner, cli: Any, args: Any = None, **more: Any) -> Any:
        done = whole(self, cli, args, **more)
        words = [str(each) for each in args or ()] if not isinstance(args, str) else args.split()
        if "--json" in words and "--help" not in words and done.stdout.lstrip()[:1] in ("{", "["):
            names = [cli.name] if cli.name not in ("cli", "kbuild", "kedro") else []
            names += [each for each in words if not each.startswith("-") and each != "kbuild"]
            name = " ".join(names[: 2 if names[0] in ("cache", "queue") else 1])
            for line in done.stdout.splitlines():
                fault = next(_documented(name).iter_errors(json.loads(line)), None)
                if fault is not None:  # of several forms the nearest
                    nearest = min(fault.context, key=lambda each: (len(each.schema_path) < 3, str(each)), default=fault)
                    raise AssertionError(f"kbuild {name} --json: {nearest.json_path}: {nearest.message[:400]}")
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CliRunner, "invoke", invoke)
        yield


@pytest.fixture(autouse=True)
def answers_apart_from_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """click 8.1, which Kedro 1.0 asks for, mixes stderr into stdout unless told not to; later ones never do."""
    if "mix_stderr" in signature(CliRunner.__init__).parameters:
        monkeypatch.setattr(CliRunner, "__init__", partialmethod(CliRunner.__init__, mix_stderr=False))


@pytest.fixture(autouse=True)
def json_is_pythons_own() -> Iterator[None]:
    """conda, which conda-lock carries, has JSON write whatever has a ``to_json``, in every test that comes after."""
    yield
    if json.JSONEncoder.default is not PYTHONS_OWN:
        json.JSONEncoder.default = PYTHONS_OWN  # type: ignore[method-assign]
        pytest.fail("this test changed what JSON writes: import conda-lock in a process of its own, see loaded.py")
