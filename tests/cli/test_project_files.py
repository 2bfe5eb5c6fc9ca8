from __future__ import annotations

import ast
import datetime
import importlib.resources
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Context
from jsonschema.validators import validator_for

from kbuild.audit.checks.identity import identify
from kbuild.audit.finding import Unchecked
from kbuild.audit.lockview import LockEntry
from kbuild.audit.policy import join_policies, parse_policy
from kbuild.audit.subject import Subject
from kbuild.cli.kedro_plugin import commands
from kbuild.errors import ConfigurationError, OutputError
from kbuild.init.installed import find_project_install
from kbuild.init.project_files import (
    CI_KINDS,
    CONFIG,
    GITHUB,
    GITLAB,
    SCRIPT,
    USUAL,
    InitRequest,
    accepted_until,
    apply,
    is_as_written,
    make_files,
    plan_changes,
)
from kbuild.project.config import read_config, read_schema

EXPIRES = datetime.date(2027, 5, 27)
pytestmark = pytest.mark.filterwarnings("ignore")


def request(**changes: Any) -> InitRequest:
    given = {"push": None, "trigger": "none", "python": "3.12", "install": "kbuild[build]", "expires": EXPIRES}
    given |= {"project": (), "policy": True, "kinds": USUAL}
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


def test_the_least_that_a_job_may() -> None:
    workflow = yaml.safe_load(make_files(request(push="ghcr.io/team/x:{run_id}"))[GITHUB])
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["image"]["permissions"] == {
        "actions": "read",
        "contents": "read",
        "packages": "write",
        "security-events": "write",
    }
    other = yaml.safe_load(make_files(request(push="r.example/x:1"))[GITHUB])
    assert other["jobs"]["image"]["permissions"] == {
        "actions": "read",  # upload-sarif asks for it in a private repository
        "contents": "read",
        "security-events": "write",
    }
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
    assert yaml.safe_load(files[GITLAB])["kbuild"]["script"][1].count(" = r.example ]") == 1
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
        entry = LockEntry(place="", name=name, version="1", manager="conda", subdir="linux-64", url=None, sha256=None)
        unchecked = Unchecked(check="vulnerabilities", where=entry.where, reason="", remedy="")
        assert ignore.covers(unchecked) != (identify(entry, lock) is not None), name
    # Debian's tzdata and a wheel that is named zstd are others' packages, which the reason is not of.
    for where in ("base", "deb:ca-certificates", "deb:tzdata", "pip:zstd"):
        assert not ignore.covers(Unchecked(check="vulnerabilities", where=where, reason="", remedy="")), where


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


ODD = "kbuild[build] @ https://x.example/a: b #c?'d'\\$x"
PLACES = {
    "jenkins": "ci/Jenkinsfile",
    "azure": "ci/azure-pipelines.yml",
    "argo": "ci/argo-workflow.yml",
    "airflow": "ci/kbuild_dag.py",
}


@pytest.mark.parametrize("push", [None, "r.example/x:{run_id}"])
def test_other_systems_start_the_same_script(push: str | None) -> None:
    usual = make_files(request())
    files = make_files(request(push=push, install=ODD, kinds=CI_KINDS))
    assert not {*PLACES.values()} & {*usual} and {*usual, *PLACES.values()} == {*files}
    for place in PLACES.values():
        assert f"sh {SCRIPT}" in files[place] and is_as_written(files[place])
    # No system puts the model, which whoever starts a job chooses, into a command.
    azure = yaml.safe_load(files[PLACES["azure"]])["jobs"][0]["steps"]
    if push is not None:
        vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "azure-pipelines.json"
        schema = json.loads(vendored.read_text(encoding="utf-8"))
        validator_for(schema)(schema).validate(yaml.safe_load(files[PLACES["azure"]]))
    [install] = [step["script"] for step in azure if step.get("displayName") == "Install kbuild"]
    assert shlex.split(install)[-1] == ODD
    assert "parameters" not in "".join(step.get("script", "") for step in azure)
    [image] = yaml.safe_load(files[PLACES["argo"]])["spec"]["templates"]
    install, start = image["container"]["args"][0].splitlines()
    assert shlex.split(install)[-1] == ODD and "{{" not in start
    [call] = [
        node
        for node in ast.walk(ast.parse(files[PLACES["airflow"]]))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BashOperator"
    ]
    given = {each.arg: ast.literal_eval(each.value) for each in call.keywords[:3]}
    assert ODD in shlex.split(given["bash_command"]) and "{{" not in given["bash_command"]
    assert given["env"]["KBUILD_MODEL_URI"] == "{{ params.model }}"
    [quoted] = re.findall(r"sh ('\.kbuild-venv/bin/python .*')$", files[PLACES["jenkins"]], re.MULTILINE)
    # Groovy's escapes of \ and ' are Python's.
    assert shlex.split(ast.literal_eval(quoted))[-1] == ODD and 'sh ci/kbuild.sh "$MODEL"' in files[PLACES["jenkins"]]


@pytest.mark.parametrize(
    ("fails", "code", "compared"),
    [
        ("nothing", 0, "true"), ("nothing", 0, "false"), ("audit", 52, "true"), ("image", 46, "true"),
        ("lock", 11, "true"),
    ],
)  # fmt: skip
def test_the_job_tells_what_became_of_it(tmp_path: Path, fails: str, code: int, compared: str) -> None:
    """With a kbuild that does as told: the summary is there in any case, and names the step that failed."""
    apply(tmp_path, plan_changes(tmp_path, make_files(request(push="r.example/x:1")), force=False))
    program = tmp_path / "bin" / "kbuild"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/sh
echo "$@" >> "{tmp_path}/asked"
[ "$CI" = true ] || exit 9
[ -z "${{DOCKER_CONFIG:-}}" ] || cat "$DOCKER_CONFIG/config.json" > "{tmp_path}/login"
[ "$1" != image ] || [ {fails} != image ] || exit {code}
case $1 in
    audit) while [ "$1" != --reports ]; do shift; done; echo '### clean' > "$2/audit.md"; set -- audit ;;
    image) echo "x@sha256:1" ;;
    lock) echo '{{"lockfile": "x", "model": "models:/m`x`/7"}}' ;;
    verify) echo '{{"digest": "sha256:1", "compared": {compared}}}' ;;
esac
[ "$1" != {fails} ] || exit {code}
""")
    program.chmod(0o755)
    environment = {
        "PATH": f"{program.parent}:/usr/local/bin:/usr/bin:/bin",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "KBUILD_REGISTRY_USERNAME": "me",
        "KBUILD_REGISTRY_PASSWORD": "hush",
        "TMPDIR": str(tmp_path),
    }
    argv = ["sh", SCRIPT, "models:/m`x`@prod"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    told = (tmp_path / "summary").read_text()
    assert (tmp_path / "kbuild-output" / "summary.md").read_text() == told and "`x`" not in told
    assert ("The image is built, verified and audited." in told) == (code == 0)
    assert code == 0 or f"exit code {code}: `kbuild help exit-codes#{code}`" in told
    built = fails not in ("image", "lock")
    assert ("- image: `x@sha256:1`" in told, "### clean" in told) == (built, built)
    assert ("- answers as the trained model did: yes\n" in told) == (built and compared == "true")
    assert ("the model recorded no answer to compare with" in told) == (compared == "false")
    # The alias may be another version's a moment later: what is verified and audited is what is pushed.
    asked = [shlex.split(line) for line in (tmp_path / "asked").read_text().splitlines()]
    named = [(words[0], words[1]) for words in asked if words[0] in ("lock", "image", "audit")]
    assert named[0] == ("lock", "models:/m`x`@prod")
    assert {model for _, model in named[1:]} == ({"models:/m`x`/7"} if fails != "lock" else set())
    assert ("--push r.example/x:1" in (tmp_path / "asked").read_text()) == (code == 0)
    assert json.loads((tmp_path / "login").read_text())["auths"] == {"r.example": {"auth": "bWU6aHVzaA=="}}
    assert not [*tmp_path.glob("tmp*")], "the login is not left behind"
    assert "## kbuild" not in done.stderr


def test_a_log_without_a_place_for_the_summary_has_the_audit_once(tmp_path: Path) -> None:
    apply(tmp_path, plan_changes(tmp_path, make_files(request()), force=False))
    program = tmp_path / "bin" / "kbuild"
    program.parent.mkdir()
    program.write_text("""#!/bin/sh
case $1 in
    audit) while [ "$1" != --reports ]; do shift; done; echo '### clean' > "$2/audit.md"; echo 'clean: 0 findings' ;;
    image) echo "x@sha256:1" ;;
    lock) echo '{"model": "models:/m/7"}' ;;
    verify) echo '{"compared": true}' ;;
esac
""")
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", SCRIPT, "m"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "x@sha256:1\n", done.stderr
    told = "## kbuild\n\nThe image is built, verified and audited.\n\n- image: `x@sha256:1`\n"
    told += "- answers as the trained model did: yes\n"
    assert done.stderr == f"clean: 0 findings\n{told}"
    assert (tmp_path / "kbuild-output" / "summary.md").read_text() == f"{told}\n### clean\n"


def test_a_job_that_is_stopped_leaves_no_login_behind(tmp_path: Path) -> None:
    """POSIX leaves it to the shell whether a signal runs the trap of EXIT; dash, Debian's sh, does not."""
    apply(tmp_path, plan_changes(tmp_path, make_files(request(push="r.example/x:1")), force=False))
    program, old = tmp_path / "bin" / "kbuild", tmp_path / "kbuild-output" / "audit.sarif"
    program.parent.mkdir()
    program.write_text("""#!/bin/sh
case $1 in
    audit) ls -d "$DOCKER_CONFIG" > seen; kill -TERM "$PPID" ;;
    image) echo "x@sha256:1" ;;
    lock) echo '{"model": "models:/m/7"}' ;;
    verify) echo '{"compared": true}' ;;
esac
""")
    program.chmod(0o755)
    old.parent.mkdir()
    old.write_text("of another model")
    path = f"{program.parent}:/usr/local/bin:/usr/bin:/bin"
    environment = {"PATH": path, "KBUILD_REGISTRY_PASSWORD": "hush", "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", SCRIPT, "m"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 143 and "Ended from outside, at **audit**." in done.stderr
    assert (tmp_path / "seen").read_text().startswith(f"{tmp_path}/tmp")
    assert not [*tmp_path.glob("tmp*")] and not old.exists()


@pytest.mark.parametrize(
    ("own", "given", "told"),
    [
        ("r.example:5050", {}, "job:token"), ("gitlab.example:5050", {}, ":"), ("", {}, ":"),
        ("r.example:5050", {"KBUILD_REGISTRY_USERNAME": "me", "KBUILD_REGISTRY_PASSWORD": "hush"}, "me:hush"),
    ],
)  # fmt: skip
def test_gitlabs_login_is_told_to_its_own_registry_alone(own: str, given: dict[str, str], told: str) -> None:
    _, login, start = yaml.safe_load(make_files(request(push="r.example:5050/x:1"))[GITLAB])["kbuild"]["script"]
    assert start == f"sh {SCRIPT}"
    ask = 'printf %s "${KBUILD_REGISTRY_USERNAME:-}:${KBUILD_REGISTRY_PASSWORD:-}"'
    variables = {"CI_REGISTRY": own, "CI_REGISTRY_USER": "job", "CI_REGISTRY_PASSWORD": "token", **given}
    done = subprocess.run(["sh", "-euc", f"{login}\n{ask}"], env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, told), done.stderr


def test_a_registry_that_asks_nobody_needs_no_login() -> None:
    workflow = yaml.safe_load(make_files(request(push="r.example/x:1"))[GITHUB])
    [login] = [each["run"] for each in workflow["jobs"]["image"]["steps"] if "log in" in each.get("name", "").lower()]
    for password, code in (("", 0), ("hush", 127)):
        variables = {"PATH": "/nowhere", "REGISTRY_USERNAME": "", "REGISTRY_PASSWORD": password}
        assert subprocess.run(["/bin/bash", "-ec", login], env=variables, capture_output=True).returncode == code


@pytest.mark.parametrize(("install", "asked"), [("kbuild @ git+https://h/r@1", True), ("kbuild[build]==1", False)])
def test_where_an_image_has_no_git_it_is_installed_for_pip(install: str, asked: bool) -> None:
    files = make_files(request(install=install, kinds=CI_KINDS))
    gitlab = yaml.safe_load(files[GITLAB])
    [argo] = yaml.safe_load(files[PLACES["argo"]])["spec"]["templates"]
    for script in (gitlab["kbuild"]["script"], gitlab["kbuild-check"]["script"], [argo["container"]["args"][0]]):
        before, _, after = "\n".join(script).partition("pip install")
        assert ("apt-get install" in before and " git\n" in before) == asked and "apt-get" not in after


def test_jenkins_traces_no_command_with_a_password() -> None:
    script = make_files(request(push="r.example/x:1", kinds=CI_KINDS))[PLACES["jenkins"]].partition("sh '''")[2]
    assert script.split()[:2] == ["set", "+x"] and "MLFLOW_PSW" in script


@pytest.mark.parametrize(
    ("push", "registry"),
    [
        ("registry.example/x:1", "registry.example"), ("localhost/x:1", "localhost"), ("host:5000/x", "host:5000"),
        ("me/x:1", "docker.io"), ("x:1", "docker.io"),
    ],
)  # fmt: skip
def test_the_job_logs_in_at_the_registry_that_docker_would_push_to(push: str, registry: str) -> None:
    """distribution's reference package: a first part with a dot or colon, or localhost, is a host."""
    files = make_files(request(push=push))
    assert f"| docker login {registry} --username" in files[GITHUB]
    assert f'python3 - {registry} > "$login/config.json"' in files[SCRIPT]


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = plan_changes(tmp_path, make_files(request()), force=False)

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}.*: No space left on device"):
        apply(tmp_path, changes)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_new_file_is_shown_whole_and_one_that_is_kept_with_what_it_lacks(tmp_path: Path) -> None:
    """As a diff: unified, from nothing for a file that is not there."""
    files = make_files(request())
    created = {change.path: change for change in plan_changes(tmp_path, files, force=False)}
    for path, change in created.items():
        lines = change.diff.splitlines()
        assert [line[:3] for line in lines[:3]] == ["---", "+++", "@@ "] and lines[2].startswith("@@ -0,0 +1"), path
        assert [line[1:] for line in lines[3:]] == files[path].splitlines()
        assert all(line.startswith("+") for line in lines[3:])
    apply(tmp_path, list(created.values()))
    assert {(each.action, each.diff) for each in plan_changes(tmp_path, files, force=False)} == {("unchanged", "")}
    (tmp_path / SCRIPT).write_text("mine\n")
    [kept] = [each for each in plan_changes(tmp_path, files, force=False) if each.path == SCRIPT]
    assert kept.action == "kept" and "\n-mine\n" in kept.diff and kept.advice == "--force overwrites it"
    [forced] = [each for each in plan_changes(tmp_path, files, force=True) if each.path == SCRIPT]
    assert (forced.action, forced.diff, forced.content) == ("updated", kept.diff, files[SCRIPT])
