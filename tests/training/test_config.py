from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from kbuild.answers import EXACT, Tolerance
from kbuild.errors import ConfigurationError
from kbuild.project.config import ProjectConfig, read_config, read_schema
from kbuild.project.model_settings import TrainingSettings
from kbuild.trigger.trigger_settings import CommandTrigger, GithubTrigger, LocalTrigger, WebhookTrigger

pytestmark = pytest.mark.filterwarnings("ignore")


def write(root: Path, *, pyproject: str = "", **environments: Any) -> Path:
    (root / "pyproject.toml").write_text(pyproject)
    for name, value in environments.items():
        folder = root / "conf" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kbuild.yml").write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return root


def test_nothing_stated_is_the_defaults(tmp_path: Path) -> None:
    assert read_config(tmp_path) == ProjectConfig(root=tmp_path, state=tmp_path / ".kbuild")


@pytest.mark.slow
def test_slim_images_are_asked_for_by_a_key(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, base={"slim": True})).slim
    with pytest.raises(ConfigurationError, match=r"slim: 'yes' is not of type 'boolean'"):
        read_config(write(tmp_path, base={"slim": "yes"}))


def test_names_of_conda_packages_are_stated_or_in_a_file(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, base={"conda-names": {"b": "y", "a": "x"}})).conda_names == (
        ("a", "x"),
        ("b", "y"),
    )
    assert read_config(write(tmp_path, base={"conda-names": "names.json"})).conda_names == tmp_path / "names.json"
    with pytest.raises(ConfigurationError, match=r"kbuild.yml: conda-names"):
        read_config(write(tmp_path, base={"conda-names": {"a": 1}}))


def test_the_tolerance_of_answers_is_a_key_of_training(tmp_path: Path) -> None:
    # 1e-4 is a text to YAML 1.1 alone
    stated = "training:\n  tolerance: {rtol: 1e-4, atol: 0}\n"
    assert read_config(write(tmp_path, base=stated)).training.tolerance == Tolerance(
        relative=1e-4, relative_single=1e-4, absolute=0
    )
    assert read_config(write(tmp_path, base={"training": {"tolerance": "exact"}})).training.tolerance == EXACT
    for wrong in ("loose", {"rtol": -1}, {"relative": 1}):
        with pytest.raises(ConfigurationError, match=r"kbuild.yml: training.tolerance"):
            read_config(write(tmp_path, base={"training": {"tolerance": wrong}}))


def test_the_schema_is_one_and_documents_every_key() -> None:
    schema = read_schema()
    Draft202012Validator.check_schema(schema)
    sections = {name: part for name, part in schema["properties"].items() if "properties" in part}
    for section in [schema, *sections.values()]:
        for part in section["properties"].values():
            definition = schema["$defs"].get(part.get("$ref", "").rpartition("/")[2], {})
            assert part.get("description") or definition.get("description")


def test_defaults_of_the_schema_are_those_of_the_code() -> None:
    schema = read_schema()["properties"]

    def defaults(name: str) -> dict[str, Any]:
        definitions = read_schema()["$defs"]
        parts = {
            key: definitions.get(part.get("$ref", "").rpartition("/")[2], {}) | part
            for key, part in schema[name]["properties"].items()
        }
        return {key: part["default"] for key, part in parts.items() if "default" in part}

    assert defaults("training") == {name: getattr(TrainingSettings(), name) for name in defaults("training")}
    for name, trigger in (
        ("local", LocalTrigger()),
        ("command", CommandTrigger(argv=())),
        ("webhook", WebhookTrigger(url="")),
        ("github", GithubTrigger(repository="")),
    ):
        assert defaults(name) == {key: getattr(trigger, key) for key in defaults(name)}


def test_conf_wins_over_pyproject_and_the_environment_over_base(tmp_path: Path) -> None:
    write(
        tmp_path,
        pyproject='[tool.kbuild]\nbase = "p"\ntag = "p"\npush = "p"\n[tool.kbuild.labels]\na = "1"\nb = "2"\n',
        base={"tag": "base", "push": "base", "labels": {"c": "3"}},
        local={"push": "local"},
        prod={"push": "prod"},
    )
    config = read_config(tmp_path)
    assert (config.base, config.tag, config.push) == ("p", "base", "local")
    assert config.labels == (("c", "3"),), "a key is taken whole from where it is stated last"
    assert read_config(tmp_path, env="prod").push == "prod"
    assert read_config(tmp_path, env="base").push == "base"


def test_both_places_take_the_same_keys(tmp_path: Path) -> None:
    text = """
[tool.kbuild]
trigger = "webhook"
channels = ["conda-forge"]
state_folder = "state"
[tool.kbuild.training]
example_rows = 2
check = false
check_timeout = 5
tags = {team = "risk", urgent = true}
[tool.kbuild.webhook]
url = "https://ci.example/kbuild"
"""
    one = read_config(write(tmp_path, pyproject=text))
    import tomllib

    (tmp_path / "pyproject.toml").unlink()
    other = read_config(write(tmp_path, base=tomllib.loads(text)["tool"]["kbuild"]))
    assert one == other
    assert one.training == TrainingSettings(
        example_rows=2, check=False, check_timeout=5, tags={"team": "risk", "urgent": "true"}
    )
    assert one.trigger == WebhookTrigger(url="https://ci.example/kbuild")
    assert one.state == tmp_path / "state"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("trigger: webhook", "trigger is webhook, but there is no section webhook"),
        ("trigger: sometimes", "kbuild.yml: trigger: 'sometimes' is not one of"),
        ("webhook: {url: ftp://x}", "kbuild.yml: webhook.url: 'ftp://x' does not match"),
        ("webhook: {url: 'https://me:pw@x/'}", "webhook.url"),
        ("webhook: {}", "kbuild.yml: webhook: 'url' is a required property"),
        ("webhook: {url: 'https://x', timeout: soon}", "webhook.timeout: 'soon' is not of type 'number'"),
        ("channels: [conda-forge, 5]", r"channels\[1\]: 5 is not of type 'string'"),
        ("labels: {a: 1}", "labels.a: 1 is not of type 'string'"),
        ("traning: {}\ntraining: {chek: true}", "traning is unknown .*training.chek is unknown .*known: example_rows"),
        ("training: {example_rows: true}", "training.example_rows: True is not of type 'integer'"),
        ("training: {example_rows: -1}", "training.example_rows: -1 is less than the minimum"),
        ("command: {argv: []}", "command.argv"),
        ("push: '${globals:nowhere}'", "kbuild.yml cannot be read"),
        ("push: [", "kbuild.yml cannot be read"),
        ("- a list", "kbuild.yml is no table of keys, but a list"),
        ("1: 2", "kbuild.yml: the key 1 is no text"),
        ("yes: 2", "kbuild.yml: the key True is no text"),
        ("2026-01-01: 2", "kbuild.yml: the key 2026-01-01 is no text"),
    ],
)
def test_faults_are_one_line_with_the_path_of_the_key(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        read_config(write(tmp_path, base=text))
    assert "\n" not in caught.value.message


def test_a_token_where_its_variable_belongs_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"github.token_env: has to be the name of") as caught:
        read_config(write(tmp_path, base={"github": {"repository": "a/b", "token_env": "ghp_verysecret"}}))
    assert "verysecret" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[tool.kbuild]\nbasis = 'x'", r"pyproject.toml, \[tool.kbuild\]: basis is unknown"),
        ("[tool.kbuild.training]\ncheck = 1", "training.check: 1 is not of type 'boolean'"),
        ("[tool", "is not valid TOML"),
    ],
)
def test_faults_of_pyproject_say_so(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=match):
        read_config(write(tmp_path, pyproject=text))


def test_a_project_without_base_is_read_as_its_environment_states(tmp_path: Path) -> None:
    write(tmp_path, prod={"push": "prod"})
    assert read_config(tmp_path, env="prod").push == "prod"
    write(tmp_path, local={"tag": "mine"})
    assert read_config(tmp_path).tag == "mine"
    with pytest.raises(ConfigurationError, match="pusch is unknown"):
        read_config(write(tmp_path, prod={"pusch": "prod"}), env="prod")


def test_an_environment_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no environment 'prod'"):
        read_config(write(tmp_path, base={}), env="prod")


def test_a_session_is_asked_through_its_own_loader(tmp_path: Path) -> None:
    from kedro.config import OmegaConfigLoader

    write(tmp_path, base={"tag": "${globals:name}", "push": "base"}, night={"push": "${runtime_params:to}"})
    (tmp_path / "conf" / "base" / "globals.yml").write_text("name: churn\n")
    loader = OmegaConfigLoader(
        str(tmp_path / "conf"), env="night", base_env="base", runtime_params={"to": "r.example/x"}
    )
    config = read_config(tmp_path, env="night", loader=loader)
    assert (config.tag, config.push, config.env) == ("churn", "r.example/x", "night")
