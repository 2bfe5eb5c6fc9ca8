"""For all cheap tests: nothing stays behind in the machine's temporary folder or in the checkout."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partialmethod
from inspect import signature
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
# What MLflow makes below the working directory where nobody told it another place.
STORES = ("mlruns", "mlartifacts", "mlflow.db")


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder of this session's own, with a short name: sockets are made in it."""
    tmp_path_factory.getbasetemp()  # stays where it is, to be looked into after a failure
    before, there = os.environ.get("TMPDIR"), [name for name in STORES if (ROOT / name).exists()]
    folder = tempfile.mkdtemp(prefix="kbuild-t-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
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
    shutil.rmtree(folder, ignore_errors=True)
    assert [name for name in STORES if (ROOT / name).exists()] == there, "a test left MLflow's files in the checkout"


@pytest.fixture(autouse=True)
def answers_apart_from_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """click 8.1, which Kedro 1.0 asks for, mixes stderr into stdout unless told not to; later ones never do."""
    if "mix_stderr" in signature(CliRunner.__init__).parameters:
        monkeypatch.setattr(CliRunner, "__init__", partialmethod(CliRunner.__init__, mix_stderr=False))
