"""``kbuild init`` in the demo project: valid for GitHub and GitLab, idempotent, and careful with what was edited."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from tool import BIN, Tool, copy_project

FILES = [
    "conf/base/kbuild.yml",
    "ci/kbuild.sh",
    ".github/workflows/kbuild.yml",
    ".gitlab/kbuild.yml",
    ".gitlab-ci.yml",
    ".gitignore",
]
PUSHES = ["", "ghcr.io/team/churn:{run_id}", "registry.example:5000/its.own/odd__one:{version}"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = copy_project(tmp_path / "project")
    (folder / ".gitignore").unlink()
    return folder


@pytest.mark.parametrize("push", PUSHES)
def test_the_jobs_are_valid_for_their_published_schemas(push: str, project: Path, tool: Tool) -> None:
    done = tool("init", *(["--push", push] if push else []), cwd=project)
    assert done.out.splitlines() == [f"created {path}" for path in FILES]
    for schema, paths in (
        ("vendor.github-workflows", [".github/workflows/kbuild.yml"]),
        ("vendor.gitlab-ci", [".gitlab/kbuild.yml", ".gitlab-ci.yml"]),
    ):
        argv = [BIN / "check-jsonschema", "--builtin-schema", schema, *paths]
        checked = subprocess.run(argv, cwd=project, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
    assert subprocess.run(["sh", "-n", "ci/kbuild.sh"], cwd=project).returncode == 0


def test_a_second_time_nothing_changes(project: Path, tool: Tool) -> None:
    assert set(tool("init", "--json", cwd=project).json.values()) == {"created"}
    before = {path: (project / path).stat().st_mtime_ns for path in FILES}
    done = tool("init", "--json", cwd=project)
    assert set(done.json.values()) == {"unchanged"} and done.err == ""
    assert {path: (project / path).stat().st_mtime_ns for path in FILES} == before


def test_dry_run_prints_a_diff_that_applies_and_writes_nothing(project: Path, tool: Tool) -> None:
    diff = tool("init", "--dry-run", cwd=project).out
    assert not any((project / path).exists() for path in FILES)
    applied = subprocess.run(["git", "apply", "-"], cwd=project, input=diff, text=True, capture_output=True)
    assert applied.returncode == 0, applied.stderr
    done = tool("init", "--json", cwd=project)
    assert set(done.json.values()) == {"unchanged"}


def test_what_was_edited_is_kept_and_shown_until_forced(project: Path, tool: Tool) -> None:
    tool("init", cwd=project)
    script = project / "ci" / "kbuild.sh"
    edited = script.read_text().replace("set -eu", "set -eux")
    script.write_text(edited)
    done = tool("init", "--push", "registry.example/churn:1", "--json", cwd=project)
    assert done.json["ci/kbuild.sh"] == "kept" and script.read_text() == edited
    assert done.json[".github/workflows/kbuild.yml"] == "updated"
    assert "-set -eux" in done.err and "+push=registry.example/churn:1" in done.err
    forced = tool("init", "--push", "registry.example/churn:1", "--json", "--force", cwd=project)
    assert forced.json["ci/kbuild.sh"] == "updated" and "set -eux" not in script.read_text()


def test_a_pipeline_of_the_projects_own_is_never_replaced(project: Path, tool: Tool) -> None:
    own = "stages: [build]\n"
    (project / ".gitlab-ci.yml").write_text(own)
    done = tool("init", "--force", cwd=project)
    assert (project / ".gitlab-ci.yml").read_text() == own
    assert "add to it: include: [{local: .gitlab/kbuild.yml}]" in done.err
    (project / ".gitlab-ci.yml").write_text(f"{own}include: [{{local: .gitlab/kbuild.yml}}]\n")
    assert json.loads(tool("init", "--json", cwd=project).out)[".gitlab-ci.yml"] == "unchanged"


def test_jobs_install_kbuild_from_where_this_one_came(project: Path, tool: Tool) -> None:
    done = tool("init", cwd=project)
    url = json.loads(distribution("kbuild").read_text("direct_url.json") or "{}")["url"]
    workflow = yaml.safe_load((project / ".github/workflows/kbuild.yml").read_text())
    [run] = [step["run"] for step in workflow["jobs"]["image"]["steps"] if step.get("name") == "Install kbuild"]
    assert shlex.split(run) == ["python", "-m", "pip", "install", f"kbuild[build] @ {url}"]
    # It is a checkout of this machine: other machines are told what to write.
    assert f"kbuild is installed from {url.removeprefix('file://')} here" in done.err and "--install" in done.err
    given = tool("init", "--force", "--install", "kbuild[build] @ https://x.example/kbuild-1.whl", cwd=project)
    assert "is installed from" not in given.err


def test_the_readmes_install_line_works_from_a_checkout(tmp_path: Path, tool: Tool) -> None:
    root = Path(__file__).parent.parent
    lines = re.findall(r"^python3 -m pip install .*", (root / "README.md").read_text(), re.MULTILINE)
    [line] = [line for line in lines if "nox" not in line]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    # Without what it needs, which takes minutes and is the same as in the quick start's environment.
    environment = {**tool.environ(), "PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}"}
    argv = ["sh", "-c", f"{line} --no-deps"]
    done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "venv" / "bin" / "kbuild").is_file()


def test_outside_a_kedro_project_nothing_is_written(tmp_path: Path, tool: Tool) -> None:
    refused = tool("init", cwd=tmp_path, code=3)
    assert refused.error_lines[0] == "error: there is no Kedro project here"
    assert list(tmp_path.iterdir()) == []
