import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from kbuild.errors import InvalidModel
from kbuild.model.bundle import read_bundle

MLMODEL = {
    "artifact_path": "/home/someone/mlartifacts/1/models/m-x/artifacts",
    "flavors": {
        "python_function": {
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.sklearn",
            "python_version": "3.11.7",
        },
        "sklearn": {"sklearn_version": "1.9.1"},
    },
    "mlflow_version": "3.17.2",
    "model_id": "m-" + "a" * 32,
    "run_id": "b" * 32,
    "saved_input_example_info": {"serving_input_path": "serving_input_example.json"},
    "signature": {"inputs": '[{"type": "double", "name": "a"}]', "outputs": None, "params": None},
    "utc_time_created": "2026-11-22 21:45:19.739228",
    "metadata": {"kbuild": {"format": 1}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "code" / "pkg").mkdir(parents=True)
    (root / "MLmodel").write_text(yaml.safe_dump(MLMODEL))
    (root / "conda.yaml").write_text(
        "channels: [conda-forge]\ndependencies: [python=3.11.7, {pip: [mlflow==3.17.2]}]\n"
    )
    (root / "constraints.txt").write_text("numpy==2.4.6\n")
    (root / "serving_input_example.json").write_text("{}")
    (root / "code" / "pkg" / "__init__.py").write_text("")
    return root


def test_facts(folder: Path) -> None:
    facts = read_bundle(folder).facts
    assert facts.uri == "models:/m-" + "a" * 32
    assert (facts.run_id, facts.python_version, facts.created) == ("b" * 32, "3.11.7", 1795383919)
    assert facts.flavors == ("python_function", "sklearn")
    assert facts.signature == {"inputs": [{"type": "double", "name": "a"}]}
    assert facts.input_example == "serving_input_example.json"
    assert facts.constraints == "numpy==2.4.6\n"
    assert facts.record == {"format": 1}


def test_digest_is_of_names_and_bytes_alone(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    (elsewhere / "registered_model_meta").write_text("model_name: churn")
    (elsewhere / "code" / "pkg" / "__pycache__").mkdir()
    (elsewhere / "code" / "pkg" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert read_bundle(elsewhere).digest == read_bundle(folder).digest
    (elsewhere / "code" / "pkg" / "__init__.py").write_text("x = 1")
    assert read_bundle(elsewhere).digest != read_bundle(folder).digest


def test_a_cut_environment_is_told_and_a_changed_one_taken(folder: Path) -> None:
    """A store that cuts a file may leave YAML that reads well, and a size that it lists as it is."""
    whole = b"channels: [conda-forge]\ndependencies:\n- python=3.11.7\n- pip:\n  - numpy==2.4.6\n  - pandas==3.1.1\n"
    (folder / "conda.yaml").write_bytes(whole)
    noted = {"conda.yaml": "sha256:" + hashlib.sha256(whole).hexdigest()}
    change(folder, metadata={"kbuild": {"format": 1, "environment": noted}})
    assert read_bundle(folder).facts.record["environment"] == noted
    (folder / "conda.yaml").write_bytes(whole[:-2])  # pandas==3.1.
    with pytest.raises(InvalidModel, match=r"conda\.yaml of the model was cut: it has 94 bytes") as raised:
        read_bundle(folder)
    assert "run the pipeline again" in str(raised.value.hint)
    # What mlflow.models.update_model_requirements leaves, and what an editor does.
    (folder / "conda.yaml").write_bytes(whole.replace(b"3.1.1", b"3.0.3"))
    assert "pandas==3.0.3" in str(read_bundle(folder).facts.conda_env)


@pytest.mark.parametrize("name", ["constraints.txt", "python_env.yaml"])
def test_whatever_says_what_is_needed_is_told_where_it_was_cut(folder: Path, name: str) -> None:
    whole = b"numpy==2.4.6\npandas==3.1.1\n"
    (folder / name).write_bytes(whole[:-2])
    noted = {name: "sha256:" + hashlib.sha256(whole).hexdigest()}
    change(folder, metadata={"kbuild": {"format": 1, "environment": noted}})
    with pytest.raises(InvalidModel, match=rf"{name} of the model was cut"):
        read_bundle(folder)


@pytest.mark.parametrize("noted", [None, [], "x", {"../x": "y"}, {1: 2}, {"conda.yaml": None}])
def test_a_note_that_is_none(folder: Path, noted: object) -> None:
    change(folder, metadata={"kbuild": {"environment": noted}})
    read_bundle(folder)


def change(folder: Path, **changes: object) -> None:
    (folder / "MLmodel").write_text(yaml.safe_dump({**MLMODEL, **changes}))


def test_a_run_of_mlflow_2_is_named_by_its_relative_path(folder: Path) -> None:
    change(folder, model_id=None, artifact_path="model")
    assert read_bundle(folder).facts.uri == f"runs:/{'b' * 32}/model"
    change(folder, model_id=None)
    assert read_bundle(folder).facts.uri is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flavors": {"sklearn": {}}}, "no python_function flavor, only sklearn"),
        ({"flavors": None}, "no flavors"),
        ({"flavors": {"python_function": {"loader_module": "x"}}}, "names no conda environment"),
        ({"flavors": {"python_function": {"env": "../conda.yaml"}}}, "outside the model"),
        ({"flavors": {"python_function": {"env": "nowhere.yaml"}}}, "no file nowhere.yaml"),
        ({"signature": {"inputs": "{"}}, "signature in MLmodel is not valid JSON"),
        ({"utc_time_created": "yesterday"}, "is not a time"),
    ],
)
def test_what_is_no_model_says_why(folder: Path, changes: dict[str, object], message: str) -> None:
    change(folder, **changes)
    with pytest.raises(InvalidModel, match=message):
        read_bundle(folder)


def test_broken_yaml_is_one_line(folder: Path) -> None:
    (folder / "MLmodel").write_text("flavors: [\n")
    with pytest.raises(InvalidModel, match="MLmodel is not valid YAML") as caught:
        read_bundle(folder)
    assert "\n" not in caught.value.message


def test_a_link_out_of_the_model_is_refused(folder: Path) -> None:
    (folder / "secret").symlink_to("/etc/hostname")
    with pytest.raises(InvalidModel, match="secret is a symbolic link"):
        read_bundle(folder)


PYFUNC = MLMODEL["flavors"]["python_function"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"flavors": {"python_function": {**PYFUNC, "env": "c\0.yaml"}}}, "flavors.python_function.env"),
        ({"flavors": {"python_function": {**PYFUNC, "env": {"conda": "c\0"}}}}, "flavors.python_function.env.conda"),
        ({"flavors": {"python_function": {**PYFUNC, "code": "co\0de"}}}, "flavors.python_function.code"),
        ({"flavors": {"python_function": PYFUNC, "skl\0earn": {}}}, "flavors"),
        ({"flavors": {"python_function": {**PYFUNC, "loader_module": "a\0"}}}, "flavors.python_function.loader_module"),
        ({"saved_input_example_info": {"serving_input_path": "\0"}}, "saved_input_example_info.serving_input_path"),
        ({"artifact_path": "mo\0del"}, "artifact_path"),
        ({"utc_time_created": ["x", "\0"]}, "utc_time_created"),
    ],
)
def test_a_text_that_no_path_can_hold_is_refused_in_one_line(
    changes: dict[str, object], where: str, folder: Path
) -> None:
    # YAML 1.2, "Escaped Characters": a JSON text is YAML as well, and has an escape for it.
    (folder / "MLmodel").write_text(json.dumps({**MLMODEL, **changes}))
    with pytest.raises(InvalidModel) as caught:
        read_bundle(folder)
    assert caught.value.message.startswith(f"{where} of MLmodel has a NUL character")
    assert caught.value.message.isprintable()


def test_a_conda_environment_is_held_to_the_same(folder: Path) -> None:
    (folder / "conda.yaml").write_text('dependencies: [python=3.11.7, {pip: ["-r more\\0.txt"]}]')
    with pytest.raises(InvalidModel, match=r"^dependencies\.pip of conda\.yaml has a NUL character"):
        read_bundle(folder)


def test_flavors_that_are_not_named_are_refused(folder: Path) -> None:
    change(folder, flavors={"python_function": PYFUNC, 3: {}})
    with pytest.raises(InvalidModel, match=r"^a flavor in MLmodel is called 3, which is not a text"):
        read_bundle(folder)
