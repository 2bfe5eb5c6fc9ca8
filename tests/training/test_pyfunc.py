from __future__ import annotations

import copy
import dataclasses
import pickle
import pickletools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.pandas.csv_dataset import CSVDataset

from kbuild.errors import InvalidModel, PipelineMLError, PredictionError
from kbuild.training.pipeline_ml import pipeline_ml_factory
from kbuild.training.pyfunc import KedroPipelineModel


def change(settings: dict[str, Any], everything: dict[str, Any], x: int) -> tuple[int, dict[str, Any]]:
    settings["seen"] = settings.get("seen", 0) + 1
    return settings["seen"] * x, everything


CHANGING = Pipeline(
    [node(change, ["params:settings", "parameters", "x"], ["answer", "all"], name="change")],
)


def make_changing() -> KedroPipelineModel:
    catalog = DataCatalog(
        {"params:settings": MemoryDataset({"a": 1}), "parameters": MemoryDataset({"settings": {"a": 1}, "k": 2})}
    )
    model = KedroPipelineModel(pipeline=CHANGING, catalog=catalog, input_name="x")
    model.load_context(SimpleNamespace(artifacts=model.extract_pipeline_artifacts()))
    return model


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    made = DataCatalog(
        {"factors": JSONDataset(filepath=str(tmp_path / "factors.json")), "params:bonus": MemoryDataset(0.5)}
    )
    made.save("factors", {"factor": 2.0})
    return made


def make_pipeline(package: ModuleType) -> Pipeline:
    return Pipeline([node(package.score, ["orders", "factors", "params:bonus"], "totals", name="score")])


def make_model(package: ModuleType, catalog: DataCatalog, **kwargs: Any) -> KedroPipelineModel:
    return KedroPipelineModel(pipeline=make_pipeline(package), catalog=catalog, input_name="orders", **kwargs)


def load(model: KedroPipelineModel) -> KedroPipelineModel:
    model.load_context(SimpleNamespace(artifacts=model.extract_pipeline_artifacts()))
    return model


def test_one_output_comes_as_it_is(package: ModuleType, catalog: DataCatalog) -> None:
    model = load(make_model(package, catalog))
    answer = model.predict(None, package.make_orders())
    assert isinstance(answer, pd.DataFrame)
    assert answer["total"].tolist() == [20.5, 80.5, 180.5]


def test_parameters_are_the_request_own(package: ModuleType, catalog: DataCatalog) -> None:
    model = load(make_model(package, catalog))
    for key in ("bonus", "params:bonus"):
        assert model.predict(None, package.make_orders(), {key: 1.0})["total"].tolist() == [21.0, 81.0, 181.0]
    assert model.predict(None, package.make_orders())["total"].tolist() == [20.5, 80.5, 180.5]


def test_unknown_parameters_are_refused(package: ModuleType, catalog: DataCatalog) -> None:
    with pytest.raises(PredictionError, match="no parameter 'bonsu'; it has: bonus"):
        load(make_model(package, catalog)).predict(None, package.make_orders(), {"bonsu": 1})


@pytest.mark.parametrize("runner", [None, "SequentialRunner"])
def test_the_allowed_runners(package: ModuleType, catalog: DataCatalog, runner: str | None) -> None:
    model = load(make_model(package, catalog, runner=runner))
    assert len(model.predict(None, package.make_orders(), {"runner": runner})) == 3


@pytest.mark.parametrize("runner", ["os.system", "kedro.runner.SequentialRunner", "ThreadRunner", 7])
def test_no_other_runner_is_looked_up(package: ModuleType, catalog: DataCatalog, runner: Any) -> None:
    with pytest.raises(PredictionError, match="is not allowed"):
        load(make_model(package, catalog)).predict(None, package.make_orders(), {"runner": runner})
    with pytest.raises(PipelineMLError, match="is not allowed"):
        make_model(package, catalog, runner=runner)


def test_kedro_own_sequential_runner_is_taken(package: ModuleType, catalog: DataCatalog) -> None:
    from kedro.runner import SequentialRunner

    make_model(package, catalog, runner=SequentialRunner)
    make_model(package, catalog, runner=SequentialRunner())


def test_several_outputs_come_as_a_mapping_that_json_can_carry(package: ModuleType, catalog: DataCatalog) -> None:
    pipeline = Pipeline([node(package.split_score, ["orders", "factors"], ["table", "size"], name="split")])
    model = load(KedroPipelineModel(pipeline=pipeline, catalog=catalog, input_name="orders"))
    assert model.predict(None, pd.DataFrame({"price": [1, 2]})) == {
        "size": 2,
        "table": [{"price": 2.0}, {"price": 4.0}],
    }


def test_a_node_that_changes_its_parameters_changes_no_other_request() -> None:
    model = make_changing()
    first = model.predict(None, 10)
    assert first["answer"] == 10
    assert model.predict(None, 10) == first
    assert model.predict(None, 10, {"settings": {"seen": 4}})["answer"] == 50


def test_a_parameter_is_set_in_all_parameters_too() -> None:
    model = make_changing()
    assert model.predict(None, 1, {"k": 3})["all"]["k"] == 3
    assert model.predict(None, 1)["all"]["k"] == 2


@dataclasses.dataclass
class Options:
    k: int
    deep: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Fixed:
    k: int


def show_parameters(whole: Any, part: Any, every: Any, x: Any) -> str:
    return f"{whole['k'] if isinstance(whole, dict) else whole.k} {part} {every['m']['k']}"


def test_a_nested_parameter_is_the_same_one_wherever_it_is_read() -> None:
    pipeline = Pipeline([node(show_parameters, ["params:m", "params:m.k", "parameters", "x"], "told", name="show")])
    plain = {"m": {"k": 1, "deep": {"a": 1}}}

    def ask(whole: Any, given: dict[str, Any]) -> Any:
        held = {"params:m": whole, "params:m.k": 1, "parameters": plain}
        catalog = DataCatalog({name: MemoryDataset(value) for name, value in held.items()})
        return load(KedroPipelineModel(pipeline=pipeline, catalog=catalog, input_name="x")).predict(None, 0, given)

    # What ``kedro run --params m.k=5`` gives to each of these inputs.
    assert ask(plain["m"], {"m.k": 5}) == ask(plain["m"], {"m": {"k": 5}}) == "5 5 5"
    # Kedro 1.3 makes objects of parameters that nodes annotate.
    assert ask(Options(k=1, deep={}), {"m.k": 5}) == "5 5 5"
    assert ask(plain["m"], {}) == "1 1 1"
    with pytest.raises(PredictionError, match=r"'m.k' is part of a Fixed, which cannot be changed"):
        ask(Fixed(k=1), {"m.k": 5})
    for unknown in ("m.no", "no.k", "m.k.real", "m.__class__"):
        with pytest.raises(PredictionError, match=f"no parameter '{unknown}'"):
            ask(plain["m"], {unknown: 5})


def show_dotted(every: Any, one: Any, x: Any) -> str:
    return f"{every['a.b']} {every['t.u']['v.w']} {every['t']['n']} {one}"


def test_a_parameter_whose_key_has_dots_is_set_wherever_it_is_read() -> None:
    pipeline = Pipeline([node(show_dotted, ["parameters", "params:a.b", "x"], "told", name="show")])
    held = {"parameters": {"a.b": 1, "t.u": {"v.w": 1}, "t": {"n": 1}}, "params:a.b": 1}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in held.items()})
    model = load(KedroPipelineModel(pipeline=pipeline, catalog=catalog, input_name="x"))
    assert model.predict(None, 0, {"a.b": 5}) == "5 1 1 5"
    assert model.predict(None, 0, {"t.u.v.w": 5}) == "1 5 1 1"
    assert model.predict(None, 0, {"t.n": 5}) == "1 1 5 1"
    with pytest.raises(PredictionError, match=r"no parameter 't\.u\.v'"):
        model.predict(None, 0, {"t.u.v": 5})


def test_the_arguments_of_a_pipeline_ml(package: ModuleType, catalog: DataCatalog) -> None:
    training = Pipeline([node(package.fit, "orders", "factors", name="fit")])
    bound = pipeline_ml_factory(training, make_pipeline(package), "orders", kpm_kwargs={"copy_mode": "copy"})
    model = KedroPipelineModel(pipeline_ml=bound, catalog=catalog)
    assert model.copy_mode == "copy"
    assert set(bound.extract_pipeline_artifacts(catalog)) == {"factors", "params:bonus"}
    assert bound.extract_pipeline_artifacts(catalog)["factors"] == (Path(catalog["factors"]._filepath)).as_uri()


def test_what_is_bound_may_stand_for_its_pipeline_and_kedro_mlflows_order_of_arguments_is_taken(
    package: ModuleType, catalog: DataCatalog
) -> None:
    training = Pipeline([node(package.fit, "orders", "factors", name="fit")])
    inference = make_pipeline(package)
    bound = pipeline_ml_factory(training, inference, "orders", kpm_kwargs={"copy_mode": "copy"})
    wanted = load(KedroPipelineModel(pipeline=inference, catalog=catalog, input_name="orders")).output_names
    for model in (
        KedroPipelineModel(pipeline=bound, catalog=catalog),
        KedroPipelineModel(pipeline=bound, catalog=catalog, input_name="orders"),
        KedroPipelineModel(inference, catalog, "orders", "copy"),
        KedroPipelineModel(bound, catalog),
    ):
        assert (model.output_names, model.input_name, model.copy_mode) == (wanted, "orders", "copy")


def test_artifacts_that_nothing_reads_are_refused(package: ModuleType, catalog: DataCatalog) -> None:
    model = make_model(package, catalog)
    artifacts = model.extract_pipeline_artifacts()
    with pytest.raises(InvalidModel, match="that no input reads: extra"):
        model.load_artifacts({**artifacts, "extra": artifacts["factors"]})


def test_too_few_arguments_are_refused(package: ModuleType, catalog: DataCatalog) -> None:
    with pytest.raises(PipelineMLError, match="needs a catalog"):
        KedroPipelineModel(pipeline=make_pipeline(package), input_name="orders")
    with pytest.raises(PipelineMLError, match="not an input of the inference"):
        KedroPipelineModel(pipeline=make_pipeline(package), catalog=catalog, input_name="totals")


def test_the_state_is_plain_and_versioned(package: ModuleType, catalog: DataCatalog) -> None:
    model = make_model(package, catalog)
    state = model.__getstate__()
    assert state["format"] == 1
    assert state["sources"] == {
        "factors": {"kind": "dataset", "type": "kedro_datasets.json.json_dataset.JSONDataset", "arguments": {}},
        "params:bonus": {"kind": "parameter", "type": None, "arguments": {}},
    }
    with pytest.raises(InvalidModel, match="format 3, this kbuild reads formats up to 2"):
        KedroPipelineModel.__new__(KedroPipelineModel).__setstate__({**state, "format": 3})
    # Older code must not take a model whose input is to be restored for one whose is not.
    model.form = {"kind": "scalar", "type": "int"}
    state = model.__getstate__()
    assert (state["format"], state["form"]) == (2, {"kind": "scalar", "type": "int"})


def test_the_pickle_names_only_functions_and_the_frozen_class(package: ModuleType, catalog: DataCatalog) -> None:
    data = pickle.dumps(load(make_model(package, catalog)))
    strings = [str(argument) for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    assert "kbuild.training.pyfunc" in strings
    assert "tinyshop.functions" in strings
    assert not [text for text in strings if "/" in text or "kedro.io" in text or "credentials" in text]


def test_a_loaded_model_answers_without_a_catalog(package: ModuleType, catalog: DataCatalog) -> None:
    model = make_model(package, catalog)
    artifacts = model.extract_pipeline_artifacts()
    loaded: KedroPipelineModel = pickle.loads(pickle.dumps(model))
    with pytest.raises(PredictionError, match="before load_context"):
        loaded.predict(None, package.make_orders())
    with pytest.raises(PipelineMLError, match="has no catalog"):
        loaded.extract_pipeline_artifacts()
    loaded.load_context(SimpleNamespace(artifacts=artifacts))
    assert loaded.predict(None, package.make_orders())["total"].tolist() == [20.5, 80.5, 180.5]
    with pytest.raises(InvalidModel, match=r"lacks the artifact\(s\) params:bonus"):
        loaded.load_context(SimpleNamespace(artifacts={"factors": artifacts["factors"]}))


def test_a_loaded_model_is_copied_whole(package: ModuleType, catalog: DataCatalog) -> None:
    loaded: KedroPipelineModel = pickle.loads(pickle.dumps(make_model(package, catalog)))
    assert "values" not in loaded.__getstate__(), "nothing was loaded yet"
    loaded.load_artifacts(make_model(package, catalog).extract_pipeline_artifacts())
    table = pd.DataFrame({"price": [2.0], "count": [3]})
    for copied in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        pd.testing.assert_frame_equal(copied.predict(None, table), loaded.predict(None, table))


# MLflow gives its advice as warnings.
@pytest.mark.filterwarnings("ignore")
def test_the_manual_way(package: ModuleType, catalog: DataCatalog, tmp_path: Path) -> None:
    """Saved by MLflow's own function, with nothing but the public arguments, and answered by its loader."""
    model = make_model(package, catalog)
    orders = package.make_orders()
    target = tmp_path / "saved"
    mlflow.pyfunc.save_model(
        path=str(target),
        python_model=model,
        artifacts=model.extract_pipeline_artifacts(),
        conda_env={"channels": ["conda-forge"], "dependencies": ["python=3.11", {"pip": ["mlflow", "pandas"]}]},
        signature=mlflow.models.infer_signature(orders["price"].to_frame().assign(count=1.0), params={"bonus": 0.5}),
    )
    path = list(sys.path)
    loaded = mlflow.pyfunc.load_model(str(target))
    assert sys.path == path
    table = orders.astype("float64")
    assert loaded.predict(table, params={"bonus": 1.0})["total"].tolist() == [21.0, 81.0, 181.0]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_infers_the_signature_from_an_example(package: ModuleType, catalog: DataCatalog, tmp_path: Path) -> None:
    """MLflow then calls load_context with uris, not with paths."""
    model = make_model(package, catalog)
    mlflow.pyfunc.save_model(
        path=str(tmp_path / "saved"),
        python_model=model,
        artifacts=model.extract_pipeline_artifacts(),
        input_example=package.make_orders().astype("float64"),
        pip_requirements=["mlflow"],
    )
    signature = mlflow.models.get_model_info(str(tmp_path / "saved")).signature
    assert signature.outputs.input_names() == ["total"]


def test_files_of_a_type_that_needs_kedro(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "factors.csv").write_text("factor;name\n2.0;a\n")
    dataset = CSVDataset(filepath=str(tmp_path / "factors.csv"), load_args={"sep": ";"}, credentials=None)
    catalog = DataCatalog({"factors": dataset, "params:bonus": MemoryDataset(0)})
    model = make_model(package, catalog)
    assert model.sources["factors"].arguments == {"load_args": {"sep": ";"}}
    loaded: KedroPipelineModel = pickle.loads(pickle.dumps(model))
    loaded.load_context(SimpleNamespace(artifacts=model.extract_pipeline_artifacts()))
    assert list(loaded.loaded_inputs["factors"].columns) == ["factor", "name"]
