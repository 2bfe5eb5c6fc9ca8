from __future__ import annotations

import platform
import shutil
import time
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest
import yaml
from kedro.io import AbstractDataset, DataCatalog, MemoryDataset, Version
from kedro.pipeline import Pipeline, node
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.pandas.csv_dataset import CSVDataset

from kbuild.datasets.folder_dataset import MlflowModelLocalFileSystemDataset
from kbuild.errors import PipelineMLError, PreflightFailed, RecordingError, TrackingUnavailable
from kbuild.project.config import ProjectConfig
from kbuild.project.tracking_settings import TrackingSettings
from kbuild.recording.preflight import stores
from kbuild.recording.preflight.fault import Fault, raise_findings
from kbuild.recording.preflight.look import Looked, examine
from kbuild.training.pipeline_ml import PipelineML, pipeline_ml_factory

HERE = platform.python_version()
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def catalog(tmp_path: Path, package: ModuleType) -> DataCatalog:
    return DataCatalog(
        {
            "orders": MemoryDataset(package.make_orders()),
            "factors": JSONDataset(filepath=str(tmp_path / "data" / "factors.json")),
            "params:bonus": MemoryDataset(0.5),
        }
    )


def bind(package: ModuleType, kpm_kwargs: dict[str, Any] | None = None, **log_model_kwargs: Any) -> PipelineML:
    training = Pipeline([node(package.fit, "orders", "factors", name="fit")])
    inference = Pipeline([node(package.score, ["orders", "factors", "params:bonus"], "totals", name="score")])
    return pipeline_ml_factory(training, inference, "orders", kpm_kwargs=kpm_kwargs, log_model_kwargs=log_model_kwargs)


def look(bound: PipelineML, catalog: DataCatalog, tmp_path: Path, **options: Any) -> Looked:
    config = ProjectConfig(root=tmp_path, tracking=TrackingSettings(experiment="shop"))
    return examine(bound, catalog, config, project_path=tmp_path, package_name="tinyshop", **options)


def told(looked: Looked) -> list[tuple[str, str, str]]:
    return [(each.about, each.error.message, each.error.hint or "") for each in looked.findings]


def test_nothing_is_found_where_nothing_is_wrong(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    bound = bind(package, {"copy_mode": {"factors": "copy"}}, registered_model_name="shop", code_paths=[str(tmp_path)])
    assert look(bound, catalog, tmp_path) == Looked(findings=(), notes=())
    assert store.search_experiments(filter_string="name = 'shop'") == []  # it makes nothing


@pytest.mark.slow
def test_twelve_faults_are_told_at_once_each_with_a_remedy_in_seconds(
    package: ModuleType, catalog: DataCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedro_datasets.matplotlib.matplotlib_dataset import MatplotlibDataset

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    training = Pipeline(
        [
            node(package.fit, "orders", "factors", name="fit"),
            node(package.fit, "factors", "sum", name="refit"),
            node(package.fit, "orders", "estimator", name="fit_estimator"),
        ]
    )
    inference = Pipeline(
        [
            node(lambda *_: 1, ["orders", "plot", "factors", "params:bonnus", "sum", "codes"], "totals", name="score"),
        ]
    )
    catalog["plot"] = MatplotlibDataset(filepath=str(tmp_path / "plot.png"))
    catalog["codes"] = CSVDataset(filepath=str(tmp_path / "codes.csv"))
    catalog["estimator"] = MlflowModelLocalFileSystemDataset(filepath=str(tmp_path / "m"), flavor="mlflow.sklern")
    bound = pipeline_ml_factory(
        training + Pipeline([node(len, "plot", "n"), node(len, "codes", "m")]),
        inference,
        "orders",
        kpm_kwargs={"runner": "SeqentialRunner", "copy_mode": {"factors": "deep", "factor": "copy"}},
        log_model_kwargs={
            "name": "a/b",
            "code_paths": [str(tmp_path / "srk")],
            "conda_env": {"dependencies": ["python=2.7", {"pip": ["six", "git+https://example.org/six"]}]},
            "pip_requirements": str(tmp_path / "nowhere.txt"),
            "signature": {"a": 1},
        },
    )
    begun = time.perf_counter()
    found = told(look(bound.only_nodes("fit", "fit_estimator"), catalog, tmp_path))
    assert time.perf_counter() - begun < 5
    assert [(about, message.partition(":")[0].replace(str(tmp_path), "")) for about, message, _ in found] == [
        ("run", "no model"),
        ("kpm_kwargs", "runner 'SeqentialRunner' is not allowed"),
        ("kpm_kwargs", "unknown copy_mode 'deep'"),
        ("kpm_kwargs", "copy_mode names 'factor', which is not a dataset of the inference pipeline"),
        ("log_model_kwargs", "name 'a/b' is not a name for a model"),
        ("log_model_kwargs", "code_paths names '/srk', which is not there"),
        ("log_model_kwargs", "signature is a dict"),
        ("catalog", "the dataset 'estimator' has the flavor 'mlflow.sklern', which is not a module here"),
        ("input", "'codes' has no file yet (codes.csv), and no node that runs makes it"),
        ("input", "the inference pipeline's 'params"),
        ("input", "'plot' is a MatplotlibDataset, which can be saved and not loaded"),
        ("log_model_kwargs", "log_model_kwargs has conda_env and pip_requirements; give one of them"),
        ("environment", "the model's requirements cannot be locked"),
        ("environment", "requirements cannot be read"),
        ("tracking", "the MLflow tracking server http"),
    ]
    assert all(hint for _, _, hint in found)


def test_one_finding_is_that_error_and_several_are_a_list() -> None:
    first = Fault(about="input", error=RecordingError("it is not there", hint="put it there"))
    raise_findings([])
    with pytest.raises(RecordingError, match=r"^it is not there$"):
        raise_findings([first])
    with pytest.raises(PreflightFailed, match="2 things would fail") as caught:
        raise_findings([first, Fault(about="run", error=PipelineMLError("no"))])
    assert "1. input: it is not there\n     put it there\n  2. run: no" in caught.value.message


def test_an_input_name_that_nobody_knows_is_told_with_what_may_be_meant(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    inference = Pipeline([node(package.score, ["ordrs", "factors", "params:bonus"], "totals", name="score")])
    training = Pipeline([node(package.fit, "orders", "factors", name="fit")])
    assert told(look(pipeline_ml_factory(training, inference, "ordrs"), catalog, tmp_path)) == [
        ("input_name", "'ordrs' is neither made by training nor in the catalog", "did you mean 'orders'?")
    ]
    # A name of the user's own, which nothing like it is known for.
    inference = Pipeline([node(package.score, ["flights", "factors", "params:bonus"], "totals", name="score")])
    [(_, _, hint)] = told(look(pipeline_ml_factory(training, inference, "flights"), catalog, tmp_path))
    assert hint.startswith("name one whose rows are like a request's: ") and "orders" in hint
    inference = Pipeline([node(package.score, ["ordrs", "factors", "params:bonus"], "totals", name="score")])
    # Nothing is to be inferred from its data.
    bound = pipeline_ml_factory(training, inference, "ordrs", log_model_kwargs={"signature": None})
    assert told(look(bound, catalog, tmp_path)) == []


def test_a_parameter_that_is_not_there_is_not_advised(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    asked = ["orders", "factors", "params:bonnus"]
    training = Pipeline([node(package.fit, ["orders"], "factors"), node(package.score, asked, "in_training")])
    inference = Pipeline([node(package.score, asked, "totals")])
    found = told(look(pipeline_ml_factory(training, inference, "orders"), catalog, tmp_path))
    assert {hint for _, _, hint in found} == {"did you mean 'params:bonus'?"}


def test_a_parameter_that_training_lacks_too_is_not_advised(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    training = Pipeline(
        [node(package.fit, ["orders"], "factors"), node(package.score, ["orders", "factors", "params:rate.b"], "s")]
    )
    inference = Pipeline([node(package.score, ["orders", "factors", "params:rate.c"], "totals")])
    found = told(look(pipeline_ml_factory(training, inference, "orders"), catalog, tmp_path))
    assert len(found) == 2
    assert not [hint for _, _, hint in found if "'params:rate.b'" in hint]


def test_a_version_of_before_for_what_the_run_makes_is_told(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    catalog["factors"] = JSONDataset(filepath=str(tmp_path / "factors.json"), version=Version("old", "new"))
    [(about, message, hint)] = told(look(bind(package), catalog, tmp_path))
    assert about == "run"
    assert "makes 'factors' (by fit) and loads its version old" in message
    assert "leave factors out of --load-versions" in hint


class Bucket(AbstractDataset[Any, Any]):
    """As users write them: of a path that only its own ``load`` understands."""

    def __init__(self, filepath: str) -> None:
        self._filepath = filepath

    def load(self) -> Any:
        return None

    def save(self, data: Any) -> None:
        raise NotImplementedError

    def _describe(self) -> dict[str, Any]:
        return {}


class Asked(Bucket):
    def _exists(self) -> bool:
        return False


class Broken(Bucket):
    def _exists(self) -> bool:
        raise ConnectionError("no such host")


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [
        (Bucket("s3://bucket/a"), False),
        (Bucket("/nowhere/a"), False),
        (Asked("s3://bucket/a"), False),
        (Asked("/nowhere/a"), True),
        (Broken("/nowhere/a"), False),
    ],
)
def test_only_a_file_that_is_surely_not_there_is_told(
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    tmp_path: Path,
    dataset: Bucket,
    missing: bool,
) -> None:
    catalog["codes"] = dataset
    training = Pipeline([node(package.fit, "orders", "factors", name="fit"), node(len, "codes", "n")])
    inference = Pipeline([node(lambda *_: 1, ["orders", "factors", "codes"], "totals", name="score")])
    messages = [
        message for _, message, _ in told(look(pipeline_ml_factory(training, inference, "orders"), catalog, tmp_path))
    ]
    assert ["has no file yet" in each for each in messages] == [True] * missing


def test_a_misspelled_name_that_a_pattern_has_an_entry_for(
    package: ModuleType, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    any_name = {"{name}": {"type": "pickle.PickleDataset", "filepath": f"{tmp_path}/{{name}}.pkl"}}
    catalog = DataCatalog.from_config(any_name)
    catalog.save("orders", package.make_orders())
    training = Pipeline([node(package.fit, "orders", "factors", name="fit")])
    inference = Pipeline([node(lambda *_: 1, ["ordres", "factors"], "totals", name="score")])
    ((about, message, hint),) = told(look(pipeline_ml_factory(training, inference, "ordres"), catalog, tmp_path))
    assert (about, message) == ("input_name", "'ordres' has no file yet (ordres.pkl), and no node that runs makes it")
    assert hint == "did you mean 'orders'? Else put the file there, or run the nodes that make it"


@pytest.mark.slow
def test_what_the_users_own_list_lacks(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    functions = tmp_path / "src" / "tinyshop" / "functions.py"
    own = "import hypothesis\n\ndef f():\n    import xdist\n    from tinyshop import seldom\n"
    functions.write_text(own + functions.read_text())
    functions.with_name("seldom.py").write_text("import execnet\n")
    for kwargs in ({"pip_requirements": ["six"]}, {"conda_env": {"channels": ["x"], "dependencies": ["six"]}}):
        (only,) = told(look(bind(package, **kwargs), catalog, tmp_path))
        assert only[1].endswith("lacks hypothesis, which functions.py, line 1, imports")
    # What only making pipelines needs is put off, else the list has to bring Kedro as well.
    listed = {"pip_requirements": ["six", "hypothesis"]}
    functions.with_name("__init__.py").write_text("from kedro.pipeline import Pipeline\n")
    assert told(look(bind(package, **listed), catalog, tmp_path)) == []
    functions.write_text("from kedro.pipeline import Pipeline\n\nALL = Pipeline([])\n" + functions.read_text())
    (only,) = told(look(bind(package, **listed), catalog, tmp_path))
    assert only[1].endswith("lacks kedro, which __init__.py, line 1, imports")
    kwargs = {"conda_env": {"channels": ["x"], "dependencies": ["hypothesis", "kedro"]}}
    assert told(look(bind(package, **kwargs), catalog, tmp_path)) == []
    for python in ("3.2", "3.11.x"):
        env = {"python": python, "dependencies": ["tinyshop"]}
        (only,) = told(look(bind(package, conda_env=env), catalog, tmp_path))
        assert f"'python={python}'" in only[1]


def test_values_that_travel_are_told_and_stop_nothing(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    catalog["factors"] = CSVDataset(filepath=str(tmp_path / "f.csv"), load_args={"dtype": float})
    assert look(bind(package), catalog, tmp_path).notes == (
        "The input 'factors' (CSVDataset) goes into the model as its value, pickled.",
    )


@pytest.mark.parametrize(
    "kwargs",
    [
        {"pip_requirements": ["mlflow", "pandas<2", "six; python_version < '3'"]},
        {"extra_pip_requirements": ["pandas<2", "no-such-package-here==1.0", "kbuild==99"]},
        {"conda_env": {"dependencies": [f"python={HERE}", {"pip": ["mlflow", "pandas<2"]}]}},
        {"conda_env": {"channels": ["conda-forge"], "dependencies": ["pandas<2", {"pip": ["mlflow"]}]}},
    ],
    ids=["listed", "added", "of pip", "of conda"],
)
def test_other_versions_than_train_are_told_and_stop_nothing(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    notes = [each for each in look(bind(package, **kwargs), catalog, tmp_path).notes if "asked for" in each]
    assert len(notes) == 1
    assert notes[0].startswith(f"pandas<2 is asked for, and training has pandas {metadata.version('pandas')}: ")


def test_a_key_that_can_be_guessed_is_told_before_training(
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KBUILD_CACHE_KEY", "short")
    ((about, message, hint),) = told(look(bind(package), catalog, tmp_path))
    assert (about, message.partition(":")[0]) == ("configuration", "KBUILD_CACHE_KEY has 5 characters")
    assert "openssl rand -hex 32" in hint


@pytest.mark.slow
def test_prompts_that_the_registry_has_not_are_told(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    store.register_prompt("greeting", "Good day, {{name}}")
    store.set_prompt_alias("greeting", "spoken", 1)
    there = ["prompts:/greeting/1", "prompts:/greeting@spoken"]
    assert told(look(bind(package, prompts=there), catalog, tmp_path)) == []
    wrong = ["prompts:/greetng/1", "farewell", "prompts:/greeting/7", "prompts:/greeting@sung"]
    found = told(look(bind(package, prompts=[*there, *wrong]), catalog, tmp_path))
    assert [about for about, _, _ in found] == ["log_model_kwargs"] * 4
    messages = [f"prompts names {each!r}, which is not registered" for each in wrong]
    assert [message for _, message, _ in found] == messages
    assert found[0][2] == "did you mean 'greeting'?"
    assert look(bind(package, prompts=wrong), catalog, tmp_path, stores=False).findings == ()


def test_prompts_of_a_store_that_is_yet_to_be_made(
    package: ModuleType, catalog: DataCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    ((_, message, _),) = told(look(bind(package, prompts=["prompts:/greeting/1"]), catalog, tmp_path))
    assert message == "prompts names 'prompts:/greeting/1', which is not registered"
    assert not (tmp_path / "new.db").exists()


def test_a_store_that_cannot_be_written_is_told(
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    store.create_experiment("shop", (tmp_path / "file" / "below").as_uri())
    ((about, message, _),) = told(look(bind(package), catalog, tmp_path))
    assert (about, "the artifact store cannot be written" in message) == ("artifacts", True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".kbuild")] == []


def test_a_remote_store_gets_one_file_and_loses_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact import artifact_repository_registry as registry

    done: list[str] = []

    class Store:
        def log_artifact(self, path: str) -> None:
            assert Path(path).is_file()
            done.append(Path(path).name)

        def delete_artifacts(self, name: str) -> None:
            done.append(f"no {name}")

    monkeypatch.setattr(registry, "get_artifact_repository", lambda uri: Store())
    assert list(stores.check_artifacts("s3://bucket/place")) == []
    assert done[1] == f"no {done[0]}"
    assert list(stores.check_artifacts("s3://bucket/place")) == []
    assert done[2] == done[0]  # nobody who may not delete leaves more than one

    class Kept(Store):
        def delete_artifacts(self, name: str) -> None:
            raise PermissionError("403 Forbidden")

    monkeypatch.setattr(registry, "get_artifact_repository", lambda uri: Kept())
    assert list(stores.check_artifacts("s3://bucket/place")) == []

    def refuse(uri: str) -> Store:
        raise PermissionError("403 Forbidden for //user:secret@host")

    monkeypatch.setattr(registry, "get_artifact_repository", refuse)
    (found,) = stores.check_artifacts("s3://bucket/place")
    assert isinstance(found.error, TrackingUnavailable)
    assert "takes no file: 403 Forbidden" in found.error.message
    assert "secret" not in found.error.message
    # MLflow's repository writes nothing at the root of an experiment of Databricks.
    assert list(stores.check_artifacts("dbfs:/databricks/mlflow-tracking/12")) == []


def test_a_full_disk_is_told(
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog.save("factors", {"factor": 1.0})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2, 1, 1_000_000))
    ((about, message, hint),) = told(look(bind(package), catalog, tmp_path))
    assert (about, "has 1 MB left" in message, "TMPDIR" in hint) == ("disk", True, True)


def test_a_database_that_is_none_is_told(
    package: ModuleType, catalog: DataCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    (tmp_path / "nowhere").write_text("a file")
    ((about, message, _),) = told(look(bind(package), catalog, tmp_path))
    assert (about, "MLflow's database cannot be written" in message) == ("tracking", True)


@pytest.mark.slow
def test_a_store_that_is_a_folder_is_written_in_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(stores, "_nearest", lambda path: asked.append(path) or tmp_path)
    (tmp_path / "mlruns").mkdir()
    for uri in ((tmp_path / "mlruns").as_uri(), str(tmp_path / "mlruns")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        stores.check_tracking(tmp_path, "shop")
    assert asked == [tmp_path / "mlruns"] * 2
    asked.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    _, (found,) = stores.check_tracking(tmp_path, "shop")
    assert asked == [] and "databricks" in str(found.error.message).lower()


def test_only_the_version_that_is_loaded_takes_room(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        JSONDataset(filepath=str(tmp_path / "f.json"), version=Version(None, f"2020-01-0{number}")).save("x" * number)
    versioned = JSONDataset(filepath=str(tmp_path / "f.json"), version=Version(None, None))
    assert stores._size_of(versioned) == len('"xxx"')
    asked = JSONDataset(filepath=str(tmp_path / "f.json"), version=Version("2020-01-01", None))
    assert stores._size_of(asked) == len('"x"')
    assert stores._size_of(JSONDataset(filepath=str(tmp_path / "none"), version=Version(None, None))) == 0


class Silent(AbstractDataset[Any, Any]):
    """Of a user who wrote no more than Kedro asks for; ``_filepath`` and ``exists`` fail."""

    def _describe(self) -> Any:
        raise NotImplementedError

    def load(self) -> Any:
        return {"factor": 1.0}

    def save(self, data: Any) -> None:
        pass

    def _exists(self) -> bool:
        raise RuntimeError("no such shelf")

    @property
    def _filepath(self) -> str:
        raise RuntimeError("no such shelf")


class Quiet(Silent):
    def _describe(self) -> Any:
        return None


@pytest.mark.parametrize("kind", [Silent, Quiet])
def test_a_dataset_of_the_users_ends_no_look_in_a_traceback(
    kind: type[Silent], package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    catalog["factors"] = kind()
    catalog["orders"] = kind()
    assert look(bind(package), catalog, tmp_path) == Looked(findings=(), notes=())
    # Nor of a class that has flavors, made into something else.
    kind.__module__ = "kbuild.mine"
    assert look(bind(package), catalog, tmp_path).findings == ()


def test_an_examples_parameters_are_those_of_inference(
    package: ModuleType, catalog: DataCatalog, tmp_path: Path
) -> None:
    orders = package.make_orders()
    bound = bind(package, input_example=(orders, {"bonus": 1.0, "params:bonus": 1.0, "bonos": 2.0}))
    [(about, message, hint)] = told(look(bound, catalog, tmp_path, stores=False))
    assert (about, hint) == ("log_model_kwargs", "did you mean 'bonus'?")
    assert "'bonos', which the inference pipeline has not" in message
    signature = mlflow.models.infer_signature(orders, params={"bonus": 1.0, "bonos": 2.0})
    [(about, message, hint)] = told(look(bind(package, signature=signature), catalog, tmp_path, stores=False))
    assert (about, hint) == ("log_model_kwargs", "did you mean 'bonus'?")
    assert "the signature has the parameter 'bonos'" in message


@pytest.mark.slow
def test_what_mlflow_would_refuse_to_write_is_told(package: ModuleType, catalog: DataCatalog, tmp_path: Path) -> None:
    odd = {"a": object()}
    with pytest.raises(yaml.YAMLError):
        mlflow.models.Model(metadata=odd).to_yaml()
    bound = bind(package, metadata=odd, model_config="nowhere.yml", resources="none.yml" * 999, step="last")
    found = told(look(bound, catalog, tmp_path, stores=False))
    assert [message.partition(" ")[0] for _, message, _ in found] == ["model_config", "resources", "step", "metadata"]
    assert all(hint for _, _, hint in found)
    bound = bind(package, resources=3, prompts="prompts:/a/1", auth_policy=3)
    found = told(look(bound, catalog, tmp_path, stores=False))
    assert [message.partition(" ")[0] for _, message, _ in found] == ["resources", "prompts", "auth_policy"]
    [(_, message, hint)] = told(look(bind(package, model_config=odd), catalog, tmp_path, stores=False))
    assert "model_config cannot be written as JSON" in message
    assert hint
    (tmp_path / "c.yml").write_text("a: 1\n")
    bound = bind(package, metadata={"a": [1, None]}, model_config=str(tmp_path / "c.yml"), resources=[], step=3)
    assert told(look(bound, catalog, tmp_path, stores=False)) == []


@pytest.mark.slow
def test_what_training_reads_has_to_be_there(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    training = Pipeline(
        [
            node(package.fit, "orders", "factors", name="fit"),
            node(lambda *_: 1, ["factors", "raw", "params:thrs", "ordes", "blank"], "report", name="tell"),
        ]
    )
    inference = Pipeline([node(package.score, ["orders", "factors", "params:bonus"], "totals", name="score")])
    catalog["raw"] = CSVDataset(filepath=str(tmp_path / "raws" / "raw.csv"))
    catalog["blank"] = CSVDataset(filepath=str(tmp_path / "blank.csv"))
    (tmp_path / "blank.csv").touch()
    catalog["params:thr"] = MemoryDataset(1)
    bound = pipeline_ml_factory(training, inference, "orders")
    empty = ("data", "the file of 'blank' (blank.csv) is empty: No columns to parse from file")
    told_of = [each[:2] for each in told(look(bound, catalog, tmp_path))]
    assert told_of == [
        empty,
        ("data", "the training node 'tell' reads 'ordes', which no node that runs makes and the catalog has not"),
        ("parameters", "the training node 'tell' reads 'params:thrs', which is in no parameters file"),
        (
            "data",
            "the training node 'tell' reads 'raw', which has no file yet (raw.csv), and no node that runs makes it",
        ),
    ]
    hints = [hint for *_, hint in told(look(bound, catalog, tmp_path))]
    assert hints[1:3] == ["did you mean 'orders'?", "did you mean 'params:thr' or 'params:bonus'?"]
    # Where no data has to be there, the two names are still nowhere.
    assert [each[:2] for each in told(look(bound, catalog, tmp_path, data=False))] == told_of[1:3]
    # A part of the pipeline that does not read them trains.
    assert told(look(bound.only_nodes("fit"), catalog, tmp_path)) == []


@pytest.mark.slow
def test_a_file_that_a_node_may_write_though_it_does_not_say_so(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    def chain(place: str) -> PipelineML:
        training = Pipeline(
            [
                node(package.fit, ["orders"], "factors", name="fit"),
                node(package.score, ["factors", "params:place", "factors"], "done", name="fetch"),
                node(package.score, ["done", "raw", "raw"], "report", name="tell"),
            ]
        )
        catalog["params:place"] = MemoryDataset(place)
        inference = Pipeline([node(package.score, ["orders", "factors", "params:bonus"], "totals", name="score")])
        return pipeline_ml_factory(training, inference, "orders")

    catalog["raw"] = CSVDataset(filepath=str(tmp_path / "shelf_7" / "lot.csv"))
    for names_it in ("/x/shelf_7", "of lot.csv"):
        assert told(look(chain(names_it), catalog, tmp_path)) == []
    del catalog._datasets["raw"]
    elsewhere = "shelf_8/lot.csv"
    catalog["raw"] = CSVDataset(filepath=str(tmp_path / elsewhere))
    ((about, message, _),) = told(look(chain("nowhere"), catalog, tmp_path))
    assert (about, "'raw', which has no file yet" in message) == ("data", True)
    # Under another name a node writes that very file, or the folder that it is in.
    for place in (tmp_path / elsewhere, (tmp_path / elsewhere).parent):
        bound = chain("nowhere")
        saved = Pipeline([node(package.fit, "factors", "saved", name="save")])
        catalog["saved"] = CSVDataset(filepath=str(place))
        bound = pipeline_ml_factory(Pipeline([*bound.nodes, *saved.nodes]), bound.inference, "orders")
        assert told(look(bound, catalog, tmp_path)) == []
        del catalog._datasets["saved"]


def test_an_empty_file_that_inference_reads_and_one_that_may_be_empty(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    from kedro_datasets.text.text_dataset import TextDataset

    for name in ("codes.csv", "note.txt"):
        (tmp_path / name).touch()
    catalog["codes"] = CSVDataset(filepath=str(tmp_path / "codes.csv"))
    catalog["note"] = TextDataset(filepath=str(tmp_path / "note.txt"))
    training = Pipeline(
        [node(package.fit, "orders", "factors", name="fit"), node(len, "note", "n"), node(len, "codes", "m")]
    )
    inference = Pipeline([node(lambda *_: 1, ["orders", "factors", "codes", "note"], "totals", name="score")])
    bound = pipeline_ml_factory(training, inference, "orders")
    assert [each[:2] for each in told(look(bound, catalog, tmp_path))] == [
        ("input", "the file of 'codes' (codes.csv) is empty: No columns to parse from file")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False], ids=["a store", "a store that the run would make"])
def test_a_run_or_an_experiment_that_is_named_and_not_there_is_told(
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: bool,
) -> None:
    if not there:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    bound = bind(package)

    def found(**tracking: Any) -> list[tuple[str, str, str]]:
        config = ProjectConfig(root=tmp_path, tracking=TrackingSettings(**{"experiment": "shop", **tracking}))
        return told(examine(bound, catalog, config, project_path=tmp_path, package_name="tinyshop"))

    assert found() == []
    ((about, message, hint),) = found(run_id="0" * 32)
    assert (about, message) == (
        "tracking",
        f"kbuild.yml (tracking: run: id) names the run {'0' * 32}, which is not there",
    )
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "99")
    ((about, message, hint),) = found()
    assert (about, message) == ("tracking", "MLFLOW_EXPERIMENT_ID names the experiment '99', which is not there")
    assert "MLFLOW_EXPERIMENT_NAME=NAME" in hint
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "any")  # MLflow makes it, and then the two do not agree
    monkeypatch.setenv("MLFLOW_RUN_ID", "zz")
    ((about, message, hint),) = found()
    assert (about, message) == ("tracking", "MLFLOW_RUN_ID names the run zz, which is not there")
    assert "unset MLFLOW_RUN_ID" in hint
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    assert found() == []


@pytest.mark.slow
def test_what_was_deleted_is_told_with_what_brings_it_back(
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = store.create_experiment("shop")
    gone = store.create_run("0").info.run_id
    store.delete_experiment(number)
    store.delete_run(gone)
    bound = bind(package)
    ((about, message, hint),) = told(look(bound, catalog, tmp_path))
    assert (about, message) == ("tracking", "the MLflow experiment 'shop' was deleted, so no run can be started in it")
    assert f"mlflow experiments restore --experiment-id {number}" in hint
    settings = TrackingSettings(experiment="shop", restore_if_deleted=True)
    config = ProjectConfig(root=tmp_path, tracking=settings)
    assert examine(bound, catalog, config, project_path=tmp_path, package_name="tinyshop").findings == ()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    assert "'shop' was deleted" in told(look(bound, catalog, tmp_path))[0][1]
    monkeypatch.setenv("MLFLOW_RUN_ID", gone)
    ((about, message, hint),) = told(look(bound, catalog, tmp_path))
    assert (about, message) == ("tracking", f"the MLflow run {gone}, which MLFLOW_RUN_ID names, was deleted")
    assert f"mlflow runs restore --run-id {gone}" in hint
    monkeypatch.delenv("MLFLOW_RUN_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "Default")
    ((about, message, hint),) = told(look(bound, catalog, tmp_path))
    assert (about, "does not match" in message or "is not that of" in message) == ("tracking", True)


@pytest.mark.slow
def test_a_package_that_is_asked_for_and_not_installed_is_told_and_stops_nothing(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    looked = look(bind(package, extra_pip_requirements=["pandsa", "kbuild", "pandas"]), catalog, tmp_path)
    assert looked == Looked(
        findings=(),
        notes=(
            "The requirements name 'pandsa', which is not installed here: no version of it is pinned, and the lock is "
            "the first to see whether an index has it; did you mean 'pandas'?",
        ),
    )
    looked = look(bind(package, extra_pip_requirements=["qqxyz==1"]), catalog, tmp_path)
    assert looked.notes == (
        "The requirements name 'qqxyz', which is not installed here: the lock is the first to see whether an index has "
        "it.",
    )


def test_a_file_that_an_mlflow_run_has_need_not_be_here(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    class OfARun(CSVDataset):
        """As kedro-mlflow 2.0.3 makes its MlflowArtifactDataset: of the wrapped class, with the run as an attribute."""

        run_id = "0" * 32

    catalog["raw"] = OfARun(filepath=str(tmp_path / "raw.csv"))
    training = Pipeline([node(package.fit, "orders", "factors", name="fit"), node(len, "raw", "n", name="count")])
    inference = Pipeline([node(package.score, ["orders", "factors", "params:bonus"], "totals", name="score")])
    bound = pipeline_ml_factory(training, inference, "orders")
    assert told(look(bound, catalog, tmp_path)) == []
    OfARun.run_id = None
    assert [each[0] for each in told(look(bound, catalog, tmp_path))] == ["data"]
