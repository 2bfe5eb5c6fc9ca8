"""``kbuild init`` in the demo project: valid for GitHub and GitLab, idempotent, and careful with what was edited."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tool import BIN, Tool, copy_project

FILES = ["conf/base/kbuild.yml", "ci/kbuild.sh", ".github/workflows/kbuild.yml", ".gitlab/kbuild.yml", ".gitlab-ci.yml"]
PUSHES = ["", "ghcr.io/team/churn:{run_id}", "registry.example:5000/it's/odd:1"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


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


def test_outside_a_kedro_project_nothing_is_written(tmp_path: Path, tool: Tool) -> None:
    refused = tool("init", cwd=tmp_path, code=3)
    assert refused.error_lines[0] == "error: there is no Kedro project here"
    assert list(tmp_path.iterdir()) == []
