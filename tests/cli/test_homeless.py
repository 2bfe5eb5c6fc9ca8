"""A user without a home: no HOME, and a uid of which the system knows nothing, as containers give to some."""

from __future__ import annotations

import logging
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.cli.app import cli
from kbuild.environment.captured.interpreters import find_program
from kbuild.errors import ConfigurationError
from kbuild.model.model_reference import ModelReference
from kbuild.model.rest import open_rest
from kbuild.process import run

HOMES = ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "KBUILD_CACHE_DIR", "KBUILD_CACHE_KEY")
STRANGER = """
import os, pwd
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
os.environ.pop("HOME", None)
import kbuild.recording.surroundings
"""


def nobody(uid: int) -> pwd.struct_passwd:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.fixture(autouse=True)
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HOMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)


def test_the_cache_needs_a_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["list"])
    assert isinstance(done.exception, ConfigurationError)
    assert "no home" in done.exception.message and "KBUILD_CACHE_DIR" in str(done.exception.hint)
    assert not [*tmp_path.iterdir()], "no folder named ~"


def test_a_cache_with_a_name_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    assert CliRunner().invoke(cli, ["list"]).exit_code == 0
    with caplog.at_level(logging.WARNING):
        write_vouched(tmp_path / "note", b"mine")
        assert read_vouched(tmp_path / "note") == b"mine"
    assert "KBUILD_CACHE_KEY" in caplog.text and "no home" in caplog.text
    assert not (tmp_path / "~").exists()


def test_what_lies_in_a_home_is_not_there() -> None:
    with open_rest("http://127.0.0.1:9"):  # MLflow's credentials
        pass
    assert find_program("2.7", run=run, environ={"PATH": ""}) is None  # pyenv's and uv's interpreters
    with pytest.raises(Exception, match="names no"):
        ModelReference.parse("~/model")
    done = subprocess.run([sys.executable, "-c", STRANGER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
