from __future__ import annotations

import datetime
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Context

from kbuild.audit.checks.identity import identify
from kbuild.audit.finding import Unchecked
from kbuild.audit.lockview import LockEntry
from kbuild.audit.policy import join_policies, parse_policy
from kbuild.audit.subject import Subject
from kbuild.cli.kedro_plugin import commands
from kbuild.errors import ConfigurationError, OutputError
from kbuild.init.installed import find_project_install
from kbuild.init.project_files import (
    CONFIG,
    GITHUB,
    GITLAB,
    SCRIPT,
    InitRequest,
    accepted_until,
    apply,
    make_files,
    plan_changes,
)
from kbuild.project.config import read_config, read_schema

EXPIRES = datetime.date(2027, 5, 27)
pytestmark = pytest.mark.filterwarnings("ignore")


def request(**changes: Any) -> InitRequest:
    given = {"push": None, "trigger": "none", "python": "3.12", "install": "kbuild[build]", "expires": EXPIRES}
    return InitRequest(**(given | changes))


def actions(root: Path, files: dict[str, str], *, force: bool = False) -> dict[str, str]:
    return {change.path: change.action for change in plan_changes(root, files, force=force)}


def test_kbuild_yml_names_every_key_and_is_read_as_meant(tmp_path: Path) -> None:
    files = make_files(request(push="r.example/x:{run_id}", trigger="local"))
    apply(tmp_path, plan_changes(tmp_path, files, force=False))
    config = read_config(tmp_path)
    assert config.push == "r.example/x:{run_id}" and config.trigger is not None
    text = files[CONFIG]
    for name, part in read_schema()["properties"].items():
        assert f"{name}:" in text
        for inner in part.get("properties", {}):
            assert f"#   {inner}:" in text


def test_every_commented_default_is_right_when_its_mark_is_taken_off(tmp_path: Path) -> None:
    schema = read_schema()["properties"]
    lines = make_files(request())[CONFIG].splitlines()
    keys = {*schema, *(inner for part in schema.values() for inner in part.get("properties", {}))}
    plain = [line.removeprefix("# ") for line in lines if line.removeprefix("#").split(":")[0].strip() in keys]
    stated = {key: value for key, value in yaml.safe_load("\n".join(plain)).items() if value is not None}
    for section in ("command", "webhook", "github", "gitlab"):
        stated.pop(section)  # these have keys without a default
    (tmp_path / "conf" / "base").mkdir(parents=True)
    (tmp_path / CONFIG).write_text(yaml.safe_dump(stated))
    assert read_config(tmp_path).training.example_rows == 5


def test_the_least_that_a_job_may(tmp_path: Path) -> None:
    workflow = yaml.safe_load(make_files(request(push="ghcr.io/team/x:{run_id}"))[GITHUB])
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["image"]["permissions"] == {"contents": "read", "packages": "write"}
    other = yaml.safe_load(make_files(request(push="r.example/x:1"))[GITHUB])
    assert other["jobs"]["image"]["permissions"] == {"contents": "read"}
    # What an event brings must never become part of a command.
    for step in workflow["jobs"]["image"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_a_pull_request_is_checked_and_builds_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "requirements.txt").touch()
    project = find_project_install(tmp_path)
    files = make_files(request(project=project))
    workflow, gitlab = yaml.safe_load(files[GITHUB]), yaml.safe_load(files[GITLAB])
    asked = workflow["jobs"]["check"]
    *_, install, check = (step.get("run") for step in asked["steps"])
    assert "pull_request" in workflow[True]  # YAML 1.1 reads "on" so
    assert asked["if"] == "github.event_name == 'pull_request'"
    assert workflow["jobs"]["image"]["if"] == "github.event_name != 'pull_request'"
    assert asked["permissions"] == {"contents": "read"} and "secrets." not in str(asked)
    assert gitlab["kbuild-check"]["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "merge_request_event"'}]
    assert gitlab["kbuild-check"]["script"] == [install, check]
    assert shlex.split(install)[3:] == ["install", "-r", "requirements.txt", "-e", ".", "kbuild[build]"]
    command, options = commands.commands["kbuild"], shlex.split(check)
    assert options[:2] == ["kedro", "kbuild"]
    assert command.get_command(Context(command), options[2]).make_context("check", options[3:]).params["skip"] == (
        "data", "stores",
    )  # fmt: skip
    assert find_project_install(tmp_path / "none") == ()


def test_a_reference_is_quoted_for_shell_and_yaml() -> None:
    files = make_files(request(push="r.example/it's:1"))
    assert "push='r.example/it'\"'\"'s:1'\n" in files[SCRIPT]
    assert '{"auths": {"r.example": ' in files[GITLAB]
    assert yaml.safe_load(files[CONFIG])["push"] == "r.example/it's:1"


@pytest.mark.parametrize(
    "changes",
    [{"python": "3.11; rm -rf /"}, {"push": "a\nb"}, {"install": "x\n- y"}, {"push": "r.example$(x)/y:1"}],
)
def test_what_no_job_could_use_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        make_files(request(**changes))


def test_what_is_installed_is_quoted_for_shell_and_yaml() -> None:
    odd = "kbuild[build] @ https://x.example/a: b #c?'d'"
    files = make_files(request(install=odd))
    steps = yaml.safe_load(files[GITHUB])["jobs"]["image"]["steps"]
    [run] = [step["run"] for step in steps if step.get("name") == "Install kbuild"]
    assert shlex.split(run)[-1] == odd
    assert shlex.split(yaml.safe_load(files[GITLAB])["kbuild"]["script"][0])[-1] == odd


def test_untouched_files_follow_and_edited_ones_stay(tmp_path: Path) -> None:
    first, second = make_files(request()), make_files(request(push="r.example/x:1"))
    assert set(actions(tmp_path, first).values()) == {"created"}
    apply(tmp_path, plan_changes(tmp_path, first, force=False))
    assert set(actions(tmp_path, first).values()) == {"unchanged"}
    (tmp_path / SCRIPT).write_text(first[SCRIPT] + "echo mine\n")
    found = actions(tmp_path, second)
    assert found[SCRIPT] == "kept" and found[CONFIG] == "updated"
    assert actions(tmp_path, second, force=True)[SCRIPT] == "updated"


def test_a_pipeline_of_the_projects_own_is_kept_until_it_names_the_jobs_file(tmp_path: Path) -> None:
    files = make_files(request())
    apply(tmp_path, plan_changes(tmp_path, files, force=False))
    own = tmp_path / ".gitlab-ci.yml"
    own.write_text("# .gitlab-ci.yml of ours\ntest: {script: [pytest]}\n")
    (change,) = [each for each in plan_changes(tmp_path, files, force=True) if each.path == own.name]
    assert (change.action, GITLAB in change.advice) == ("kept", True)
    own.write_text(f"{own.read_text()}include: [{{local: {GITLAB}}}]\n")
    assert actions(tmp_path, files, force=True)[own.name] == "unchanged"


def test_the_script_can_be_run_and_nothing_else(tmp_path: Path) -> None:
    apply(tmp_path, plan_changes(tmp_path, make_files(request()), force=False))
    modes = {path: (tmp_path / path).stat().st_mode & 0o777 for path in (SCRIPT, CONFIG, GITHUB, GITLAB)}
    assert modes == {SCRIPT: 0o755, CONFIG: 0o644, GITHUB: 0o644, GITLAB: 0o644}


RECORDS = Path(__file__).parents[2] / "integration" / "conda_forge_records.json"


def conda_needs_of_python() -> set[str]:
    """Every package that conda-forge's CPythons ask for, and what those ask for, in real records."""
    needs: dict[str, set[str]] = {}
    for record in json.loads(RECORDS.read_text()):
        needs.setdefault(record["name"], set()).update(each.split()[0] for each in record["depends"])
    found: set[str] = set()
    left = ["python"]
    while left:
        name = left.pop()
        if name not in found and not name.startswith("__"):
            found.add(name)
            left += needs.get(name, ())
    return found


def test_the_policy_that_is_written_lets_condas_python_through_until_its_day(tmp_path: Path) -> None:
    apply(tmp_path, plan_changes(tmp_path, make_files(request()), force=False))
    policy = join_policies(read_config(tmp_path).audit)
    [ignore] = policy.ignores
    assert ignore.expires == EXPIRES and ignore.source == "conf/base/kbuild.yml, audit"
    lock = Subject(reference="x", kind="lock")
    needed = conda_needs_of_python()
    assert {"openssl", "libffi", "tzdata"} <= needed
    for name in sorted(needed):
        entry = LockEntry(
            place="", name=name, version="1", manager="conda", subdir="linux-64", url=None, sha256=None, dependencies=()
        )
        unchecked = Unchecked(check="vulnerabilities", where=entry.where, reason="", remedy="")
        assert ignore.covers(unchecked) != (identify(entry, lock) is not None), name
    assert not ignore.covers(Unchecked(check="vulnerabilities", where="base", reason="", remedy=""))


def test_the_commented_entries_are_right_when_their_marks_are_taken_off() -> None:
    text = make_files(request())[CONFIG]
    section = text[text.index("\naudit:") : text.index("# What follows a training run")]
    plain = re.sub(r"^    # (- id|  \w+:)", r"    \1", section, flags=re.MULTILINE)
    policy = parse_policy(yaml.safe_load(plain)["audit"])
    assert [each.id for each in policy.ignores] == ["unchecked", "unfixed", "CVE-2014-1402"]


def test_a_policy_of_the_projects_own_stays_the_only_one(tmp_path: Path) -> None:
    apply(tmp_path, plan_changes(tmp_path, make_files(request(policy=False)), force=False))
    assert read_config(tmp_path).audit == ()
    assert "#   ignore:" in (tmp_path / CONFIG).read_text()


def test_the_day_is_not_put_off_by_another_init(tmp_path: Path) -> None:
    assert accepted_until(tmp_path) is None
    apply(tmp_path, plan_changes(tmp_path, make_files(request()), force=False))
    assert accepted_until(tmp_path) == EXPIRES
    (tmp_path / CONFIG).write_bytes(b"\xff expires: soon")
    assert accepted_until(tmp_path) is None


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("")
    with pytest.raises(OutputError):
        apply(tmp_path, plan_changes(tmp_path, make_files(request()), force=False))


@pytest.mark.parametrize(
    ("old", "added"),
    [
        (None, ["mlflow.db", "mlartifacts/", "mlruns/", ".kbuild/", "kbuild-output/"]),
        ("*.pyc\n/mlruns\n", ["mlflow.db", "mlartifacts/", ".kbuild/", "kbuild-output/"]),
        ("*.pyc", ["mlflow.db", "mlartifacts/", "mlruns/", ".kbuild/", "kbuild-output/"]),
        ("mlflow.db\nmlartifacts/\nmlruns\n.kbuild/\nkbuild-output\n", []),
    ],
)
def test_git_ignores_what_runs_leave_in_the_project(tmp_path: Path, old: str | None, added: list[str]) -> None:
    file = tmp_path / ".gitignore"
    if old is not None:
        file.write_text(old)
    files = make_files(request())
    apply(tmp_path, plan_changes(tmp_path, files, force=True))
    text = file.read_text()
    assert text.startswith(old or "")
    own = (old or "").splitlines()
    assert [line for line in text.splitlines() if line and not line.startswith("#") and line not in own] == added
    assert actions(tmp_path, files)[".gitignore"] == "unchanged"
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    checked = subprocess.run(
        ["git", "check-ignore", "mlflow.db", "mlartifacts/1/x", "mlruns/0", ".kbuild/y"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert len(checked.stdout.splitlines()) == 4
