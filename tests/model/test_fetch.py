import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.protos.databricks_pb2 import ErrorCode

from kbuild.errors import (
    AmbiguousModel,
    InvalidModel,
    KbuildError,
    ModelNotFound,
    RunWithoutModel,
    TrackingUnavailable,
)
from kbuild.model import fetch as fetching
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str], params=None):
        return model_input


@dataclass
class Logged:
    store: MlflowStore
    one: str
    two: str
    none: str
    deleted: str
    model_id: str


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, migrated: bytes) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db").write_bytes(migrated)
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("e", (folder / "artifacts").as_uri())

    def log(*names: str) -> tuple[str, list[str]]:
        with mlflow.start_run(experiment_id=experiment) as run:
            models = [
                mlflow.pyfunc.log_model(name=name, python_model=Echo(), pip_requirements=["mlflow"]).model_id
                for name in names
            ]
        return run.info.run_id, models

    one, models = log("model")
    two, _ = log("first", "second")
    none, _ = log()
    deleted, gone = log("model")
    client.delete_logged_model(gone[0])
    version = mlflow.register_model(f"models:/{models[0]}", "churn")
    client.set_registered_model_alias("churn", "champion", version.version)
    mlflow.set_tracking_uri(None)
    yield Logged(
        store=MlflowStore(tracking_uri=uri), one=one, two=two, none=none, deleted=deleted, model_id=str(models[0])
    )


pytestmark = pytest.mark.filterwarnings("ignore")


def fetch(logged: Logged, text: str, into: Path) -> ModelBundle:
    return logged.store.fetch(ModelReference.parse(text), into / "model")


@pytest.mark.slow
def test_every_name_brings_the_same_model(logged: Logged, tmp_path: Path) -> None:
    names = (
        logged.one,
        f"runs:/{logged.one}",
        f"runs:/{logged.one}/model",
        f"models:/{logged.model_id}",
        "models:/churn/1",
        "models:/churn@champion",
    )
    bundles = [fetch(logged, name, tmp_path) for name in names]
    assert len({bundle.digest for bundle in bundles}) == 1
    assert {bundle.facts.uri for bundle in bundles} == {f"models:/{logged.model_id}"}


@pytest.mark.slow
def test_a_run_with_two_models_asks_which(logged: Logged, tmp_path: Path) -> None:
    with pytest.raises(AmbiguousModel, match=r"first.*second"):
        fetch(logged, logged.two, tmp_path)
    assert fetch(logged, f"runs:/{logged.two}/second", tmp_path).facts.run_id == logged.two


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{none}", RunWithoutModel, "logged no model"),
        ("{deleted}", RunWithoutModel, "logged no model"),
        ("f" * 32, ModelNotFound, "not found"),
        ("runs:/{one}/nope", ModelNotFound, "no model 'nope', only model"),
        ("models:/churn/9", ModelNotFound, "churn"),
        ("models:/churn@nobody", ModelNotFound, "alias nobody not found"),
        ("models:/nothing/1", ModelNotFound, "nothing"),
        ("models:/m-" + "f" * 32, ModelNotFound, "not found"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    logged: Logged, tmp_path: Path, text: str, error: type[KbuildError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        fetch(logged, text.format(none=logged.none, deleted=logged.deleted, one=logged.one), tmp_path)
    assert "\n" not in caught.value.message


def test_a_server_that_is_down_is_named_without_its_password(tmp_path: Path) -> None:
    store = MlflowStore(tracking_uri="http://someone:secret@127.0.0.1:9")
    with pytest.raises(TrackingUnavailable, match=r"127\.0\.0\.1:9") as caught:
        store.fetch(ModelReference.parse("f" * 32), tmp_path)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("code", ["RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INTERNAL_ERROR"])
def test_no_error_shows_the_password_of_the_tracking_uri(code: str) -> None:
    from mlflow.exceptions import MlflowException

    error = MlflowException("API request to https://me:secret@host.example/api failed", ErrorCode.Value(code))
    shown = fetching._translated(error, "run x", "https://me:secret@host.example")
    assert "secret" not in f"{shown.message} {shown.hint}"
    assert "host.example" in f"{shown.message} {shown.hint}"


def test_asking_a_store_leaves_no_variable_behind(logged: Logged, tmp_path: Path) -> None:
    before = dict(os.environ)
    uri = logged.store.tracking_uri
    MlflowStore(tracking_uri=uri, registry_uri=uri).fetch(ModelReference.parse(logged.one), tmp_path)
    assert dict(os.environ) == before


def test_asking_one_store_leaves_mlflow_set_to_another(logged: Logged, tmp_path: Path) -> None:
    assert not mlflow.tracking.is_tracking_uri_set()
    fetch(logged, logged.one, tmp_path)
    assert not mlflow.tracking.is_tracking_uri_set()
    mlflow.set_tracking_uri("sqlite:///other.db")
    try:
        fetch(logged, logged.one, tmp_path)
        assert mlflow.get_tracking_uri() == "sqlite:///other.db"
    finally:
        mlflow.set_tracking_uri(None)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no MLflow database"):
        MlflowStore(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").fetch(ModelReference.parse("f" * 32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_not_there_is_told_without_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom kbuild.errors import ModelNotFound\nfrom kbuild.model.fetch import MlflowStore\n"
        f"store = MlflowStore(tracking_uri='sqlite:///{tmp_path}/mlflow.db')\n"
        "try:\n    store.upload('f' * 32, [], 'kbuild')\n"
        "except ModelNotFound:\n    print('mlflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_files_go_to_the_run_and_come_back(logged: Logged, tmp_path: Path) -> None:
    file = tmp_path / "conda-lock.yml"
    file.write_text("lock")
    assert logged.store.download(logged.one, "kbuild/conda-lock.yml", tmp_path / "out") is None
    logged.store.upload(logged.one, [file], "kbuild")
    found = logged.store.download(logged.one, "kbuild/conda-lock.yml", tmp_path / "out")
    assert found is not None and found.read_text() == "lock"


def test_a_folder_that_is_no_pyfunc_model_is_refused(logged: Logged, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {spark: {}}")
    with pytest.raises(InvalidModel, match="only spark"):
        fetch(logged, str(tmp_path), tmp_path)
