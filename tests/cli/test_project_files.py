from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild.cli.project_files import CONFIG, GITHUB, GITLAB, SCRIPT, InitRequest, apply, make_files, plan_changes
from kbuild.errors import ConfigurationError, OutputError
from kbuild.project.config import read_config, read_schema

pytestmark = pytest.mark.filterwarnings("ignore")


def request(**changes: Any) -> InitRequest:
    return InitRequest(**({"push": None, "trigger": "none", "python": "3.12", "install": "kbuild[build]"} | changes))


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


def test_untouched_files_follow_and_edited_ones_stay(tmp_path: Path) -> None:
    first, second = make_files(request()), make_files(request(push="r.example/x:1"))
    assert set(actions(tmp_path, first).values()) == {"created"}
    apply(tmp_path, plan_changes(tmp_path, first, force=False))
    assert set(actions(tmp_path, first).values()) == {"unchanged"}
    (tmp_path / SCRIPT).write_text(first[SCRIPT] + "echo mine\n")
    found = actions(tmp_path, second)
    assert found[SCRIPT] == "kept" and found[CONFIG] == "updated"
    assert actions(tmp_path, second, force=True)[SCRIPT] == "updated"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("")
    with pytest.raises(OutputError):
        apply(tmp_path, plan_changes(tmp_path, make_files(request()), force=False))
