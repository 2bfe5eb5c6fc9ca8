"""``kbuild init`` as it is typed: what it writes, keeps, shows and says to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kbuild.cli import init
from kbuild.errors import ConfigurationError, InvalidReference
from kbuild.init.installed import InstallSource

PROJECT = '[tool.kedro]\npackage_name = "shop"\nproject_name = "Shop"\nkedro_init_version = "1.0.0"\n'


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "src/shop").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    source = InstallSource(requirement="kbuild[build]==0.1.0")
    monkeypatch.setattr(init, "find_install_source", lambda *_, **__: source)
    return tmp_path


def call(*argv: str) -> Result:
    return CliRunner().invoke(init.command, list(argv))


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {"pyproject.toml"}


def test_what_is_written_is_named_and_a_second_time_nothing_changes(project: Path) -> None:
    done = call("--push", "registry.example/shop:{run_id}", "--python", "3.12")
    assert done.exit_code == 0
    said = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert {name for _, name in said} == files(project) and {action for action, _ in said} == {"created"}
    assert "kedro run" in done.stderr
    assert "+++" not in done.output, "what is new can be read where it lies"
    config = yaml.safe_load((project / "conf/base/kbuild.yml").read_text())
    assert config["push"] == "registry.example/shop:{run_id}"
    # As Python's own reader of YAML has GitHub's file; "kbuild[build]" is what the jobs install.
    github = (project / ".github/workflows/kbuild.yml").read_text()
    assert "3.12" in github and yaml.safe_load(github)["jobs"]
    assert "kbuild[build]==0.1.0" in github + (project / "ci/kbuild.sh").read_text()
    before = {name: (project / name).read_bytes() for name in files(project)}
    again = call("--python", "3.12")
    assert {line.split(" ", 1)[0] for line in again.stdout.splitlines()} == {"unchanged"}, again.stdout
    assert {name: (project / name).read_bytes() for name in files(project)} == before


@pytest.mark.parametrize("config", [False, True])
def test_a_place_to_push_to_that_can_never_be_is_told_before_anything_is_written(project: Path, config: bool) -> None:
    if config:
        (project / "pyproject.toml").write_text(PROJECT + '[tool.kbuild]\npush = "r.example/x:{versoin}"\n')
    done = call(*(() if config else ("--push", "r.example/x:{versoin}")))
    assert isinstance(done.exception, InvalidReference) and "{versoin} is not a placeholder" in done.exception.message
    assert files(project) == set()


@pytest.mark.parametrize("own", [True, False])
def test_a_policy_of_ones_own_stays_the_only_one(project: Path, own: bool) -> None:
    if own:
        (project / "pyproject.toml").write_text(PROJECT + '[tool.kbuild.audit]\nfail-on = "high"\n')
    assert call().exit_code == 0
    assert ("audit" in yaml.safe_load((project / "conf/base/kbuild.yml").read_text())) is not own


def test_a_dry_run_prints_the_files_and_writes_none(project: Path) -> None:
    done = call("--dry-run")
    assert done.exit_code == 0 and files(project) == set()
    assert "+++ " in done.stdout and "kbuild.yml" in done.stdout and "kedro run" not in done.stderr
    said = call("--dry-run", "--json")
    assert set(json.loads(said.stdout).values()) == {"created"} and "+++ " in said.stderr and files(project) == set()


def test_a_file_that_was_edited_is_kept_until_it_is_forced(project: Path) -> None:
    call()
    edited = project / ".github/workflows/kbuild.yml"
    written = edited.read_bytes()
    edited.write_text("mine: true\n")
    kept = call()
    assert (
        "is kept" in kept.stderr and "-mine: true" in kept.stderr + kept.stdout and edited.read_text() == "mine: true\n"
    )
    assert json.loads(call("--json").stdout)[".github/workflows/kbuild.yml"] == "kept"
    assert call("--force").exit_code == 0 and edited.read_bytes() == written


def test_only_the_jobs_that_were_asked_for_are_written(project: Path) -> None:
    assert call("--ci", "github").exit_code == 0
    assert ".github/workflows/kbuild.yml" in files(project) and ".gitlab-ci.yml" not in files(project)


def test_a_trigger_that_is_set_stays(project: Path) -> None:
    assert call("--trigger", "local").exit_code == 0
    config = yaml.safe_load((project / "conf/base/kbuild.yml").read_text())
    assert config["trigger"] == "local" or config["trigger"]["kind"] == "local"
    assert call().exit_code == 0
    assert yaml.safe_load((project / "conf/base/kbuild.yml").read_text()) == config


@pytest.mark.parametrize("kind", ["github", "gitlab", "jenkins", "azure", "argo", "airflow"])
def test_kbuild_from_this_machine_alone_is_told_of_every_job(
    kind: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local: Any = InstallSource(requirement="kbuild[build] @ file:///it's here", local="/here", instead="kbuild[build]")
    monkeypatch.setattr(init, "find_install_source", lambda *_, **__: local)
    assert "kbuild is installed from /here here" in call("--ci", kind).stderr
    assert "is installed from" not in call("--ci", "shell", "--force").stderr, "it installs nothing"


def test_kbuild_from_this_machine_alone_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local: Any = InstallSource(
        requirement="kbuild[build] @ file:///here", local="/here", instead="kbuild[build] @ git+https://URL@COMMIT"
    )
    monkeypatch.setattr(init, "find_install_source", lambda *_, **__: local)
    told = call().stderr
    assert "/here" in told and "kbuild init --install 'kbuild[build] @ git+https://URL@COMMIT'" in told
    assert "/here" not in call().stderr, "nothing was written that would name it"
    assert "kbuild is installed from" not in call("--install", "kbuild[build]", "--force").stderr


@pytest.mark.parametrize("text", [None, "[project]\nname = 'x'\n"])
def test_outside_of_a_kedro_project_nothing_is_written(project: Path, text: str | None) -> None:
    (project / "pyproject.toml").unlink()
    if text is not None:
        (project / "pyproject.toml").write_text(text)
    done = call()
    assert isinstance(done.exception, ConfigurationError) and "no Kedro project" in done.exception.message
    assert files(project) == set()
