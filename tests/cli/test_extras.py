"""``kbuild demo`` says before it starts what it lacks, and how to install it as kbuild was installed."""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from kbuild._version import __version__
from kbuild.cli import extras
from kbuild.cli.app import cli
from kbuild.errors import ExtraNotInstalled
from kbuild.process import run

REQUIRES = [
    "cloudpickle>=2.2",
    "click>=8.1; extra == 'build'",
    "surely-not-there>=1.4; extra == 'demo'",
    "packaging>=9000; extra == 'demo'",
    "pyyaml>=1; extra == 'demo'",
]


def test_what_the_demo_lacks_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(requires=REQUIRES, read_text=lambda name: "pip\n")
    monkeypatch.setattr(extras, "Distribution", SimpleNamespace(from_name=lambda name: found))
    monkeypatch.setattr(extras, "read_direct_url", lambda: None)
    with pytest.raises(ExtraNotInstalled) as caught:
        extras.check_extra("demo", run=run)
    assert caught.value.message == "the demo needs surely-not-there>=1.4, packaging>=9000, which are not installed"
    assert caught.value.hint == f"{sys.executable} -m pip install 'kbuild[build,demo]=={__version__}'"


@pytest.mark.parametrize(
    "typed",
    [
        "watch --once --push r.example/x --queue postgresql://h/d",
        "worker --queue postgresql://h/d",
        "queue list",
        "queue show 1",
        "queue retry 1",
        "queue cancel 1",
        "queue prune",
        "image models:/m/1 --push r.example/x --queue postgresql://h/d",
    ],
)
def test_who_asks_for_a_queue_is_told_what_it_needs(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(requires=["surely-not-there>=1; extra == 'queue'"], read_text=lambda name: "pip\n")
    monkeypatch.setattr(extras, "Distribution", SimpleNamespace(from_name=lambda name: found))
    monkeypatch.setattr(extras, "read_direct_url", lambda: None)
    error = CliRunner().invoke(cli, typed.split()).exception
    assert isinstance(error, ExtraNotInstalled), error
    assert "surely-not-there" in error.message


def test_nothing_is_said_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(requires=[*REQUIRES[:2], REQUIRES[4]])
    monkeypatch.setattr(extras, "Distribution", SimpleNamespace(from_name=lambda name: found))
    extras.check_extra("demo", run=run)


@pytest.mark.parametrize(
    ("direct_url", "wanted"),
    [
        ({"url": "file:///src/my%20kbuild", "dir_info": {"editable": True}}, ["-e", "/src/my kbuild[build,demo]"]),
        ({"url": "file:///src/kbuild", "dir_info": {}}, ["kbuild[build,demo] @ file:///src/kbuild"]),
        (
            {"url": "https://example.org/kbuild", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            ["kbuild[build,demo] @ git+https://example.org/kbuild@abc"],
        ),
    ],
)
def test_the_line_is_one_that_the_shell_and_the_installer_take(direct_url: Any, wanted: list[str]) -> None:
    line = extras.make_install_line("demo", run=run, direct_url=direct_url, installer="uv")
    words = shlex.split(line)
    assert words[:5] == ["uv", "pip", "install", "--python", sys.executable]
    assert words[5:] == wanted
    if wanted[0] != "-e":
        assert Requirement(words[5]).extras == {"build", "demo"}
    assert Path(sys.executable).is_file()


@pytest.mark.parametrize(
    ("need", "there"),
    [("one>=2", True), ("one>=3", False), ("one", True), ("one==2.1rc1", True), ("two", False)],
)
def test_a_release_candidate_that_is_installed_is_there(
    monkeypatch: pytest.MonkeyPatch, need: str, there: bool
) -> None:
    """Whoever has one installed it on purpose; pip takes it for the requirement too."""

    def version(name: str) -> str:
        if name != "one":
            raise PackageNotFoundError(name)
        return "2.1rc1"

    monkeypatch.setattr(extras, "version", version)
    assert extras._is_installed(Requirement(need)) is there
