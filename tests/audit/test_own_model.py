"""What the state of kbuild's own model names by texts: types of datasets are imported and called to load inputs."""

from __future__ import annotations

import pickle
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from devised import made, pairs
from disguised import body, call, named, whole, word
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.opcodes import READ_PLAIN
from kbuild.audit.subject import Subject
from kbuild.errors import InvalidModel
from kbuild.image.packages.lost_modules import check_modules
from kbuild.served import inputs


@pytest.fixture(scope="module", autouse=True)
def mlflow_is_imported() -> None:
    """Older ones warn of newer pydantics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kbuild.training.pyfunc  # noqa: F401


PICKLED = "kedro_datasets.pickle.pickle_dataset.PickleDataset"
PLAIN = {"format": 1, "input_name": "x", "output_names": [], "copy_mode": "assign", "steps": []}


def source(type: Any, **arguments: Any) -> dict[str, Any]:
    return {"kind": "dataset", "type": type, "arguments": arguments}


def model(**inputs: Any) -> bytes:
    """As pickle writes a model with these inputs."""
    return whole(made("kbuild.training.pyfunc", "KedroPipelineModel", body({**PLAIN, "sources": inputs})))


def check(make_bundle: Any, data: bytes, **options: Any) -> list[str]:
    files = {"python_model.pkl": data, "code/churn/__init__.py": b"class OwnDataset:\n    pass\n"}
    result = PickleCheck(**options).run(Subject(reference="x", kind="model", bundle=make_bundle(files=files)))
    assert result.unchecked == ()
    return [f"{each.severity}: {each.evidence}" for each in result.findings]


def test_what_loads_an_input_is_called_and_told(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asked_for.py").write_text("called = []\ndef serve(**given):\n    called.append(given)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "asked_for", raising=False)
    data = model(a=source("asked_for.serve", word="x"))
    with pytest.raises(AttributeError):  # it returns nothing that could load an input
        pickle.loads(data).load_context(SimpleNamespace(artifacts={"a": str(tmp_path)}))
    assert sys.modules["asked_for"].called == [{"filepath": str(tmp_path), "word": "x"}]
    (told,) = check(make_bundle, data)
    assert told.startswith("medium: ") and "would import asked_for.serve" in told
    assert check(make_bundle, data, allowed=("asked_for.serve",)) == []


def test_the_module_that_loads_a_pickle_is_told(make_bundle: Any, tmp_path: Path) -> None:
    data = model(a=source(PICKLED, backend="no_such_module_here"))
    with pytest.raises((ImportError, InvalidModel)):
        pickle.loads(data).load_context(SimpleNamespace(artifacts={"a": str(tmp_path)}))
    assert any("no_such_module_here" in each for each in check(make_bundle, data))


@pytest.mark.parametrize(
    "sources",
    [
        {"a": source(PICKLED), "b": source(PICKLED, backend="joblib"), "c": source(PICKLED, backend="cloudpickle")},
        {"a": source("kedro_datasets.pandas.csv_dataset.CSVDataset", load_args={"sep": ";"})},
        {"a": source("kedro_datasets.json.json_dataset.JSONDataset"), "b": source("churn.OwnDataset", x=[1])},
        {"a": source("kbuild.datasets.folder_dataset.MlflowModelLocalFileSystemDataset", flavor="mlflow.sklearn")},
        {"params:x": {"kind": "parameter", "type": None, "arguments": {}}, "o": {"kind": "object"}},
    ],
)
def test_datasets_of_kedros_and_the_models_own_are_known(make_bundle: Any, sources: dict[str, Any]) -> None:
    assert check(make_bundle, model(**sources)) == []


def test_what_it_reads_by_itself_needs_no_package(make_bundle: Any) -> None:
    """An image of the demo's model has none of Kedro's datasets, and its build asked for them."""
    assert {*inputs._PLAIN_LOADERS} == READ_PLAIN
    plain = [PICKLED, "kedro_datasets.json.json_dataset.JSONDataset", "kedro_datasets.pandas.csv_dataset.CSVDataset"]
    for type_name, lacks in zip(plain, (False, False, True), strict=True):
        data = model(a=source(type_name))
        bundle = make_bundle(files={"python_model.pkl": data})
        bundle = replace(bundle, facts=replace(bundle.facts, pickled=("python_model.pkl",)))
        with pytest.raises(InvalidModel, match="imports kedro_datasets") if lacks else nullcontext():
            check_modules(bundle, ["mlflow"], lambda: (), lambda: ())


def test_a_known_danger_is_critical(make_bundle: Any) -> None:
    (told,) = check(make_bundle, model(a=source("subprocess.Popen", args=["x"])))
    assert told.startswith("critical: ")
    stored = source("kbuild.datasets.folder_dataset.MlflowModelLocalFileSystemDataset", flavor="others")
    (told,) = check(make_bundle, model(a=stored))
    assert "would import others.load_model" in told


@pytest.mark.parametrize(
    "sources",
    [
        call(named("collections", "OrderedDict")),
        b"}" + word("a") + call(named("collections", "OrderedDict")) + b"s",
        b"}" + call(named("operator", "add"), "a", "b") + body(source(PICKLED)) + b"s",
        b"}" + word("a") + pairs(kind=word("dataset"), type=call(named("operator", "add"), "os.", "abort")) + b"s",
        b"}"
        + word("a")
        + pairs(kind=word("dataset"), type=word(PICKLED), arguments=call(named("builtins", "dict")))
        + b"s",
    ],
    ids=["all", "one", "a key", "a type", "arguments"],
)
def test_inputs_that_a_call_makes_are_told(make_bundle: Any, sources: bytes) -> None:
    state = b"}(" + b"".join(word(key) + body(value) for key, value in PLAIN.items())
    data = whole(made("kbuild.training.pyfunc", "KedroPipelineModel", state + word("sources") + sources + b"u"))
    assert any("has another call tell what it loads" in each for each in check(make_bundle, data))


def test_what_kedros_runner_runs_and_steps_of_pandas_are_data(make_bundle: Any) -> None:
    from kbuild.training.pyfunc import KedroPipelineModel

    steps = [pandas.concat, pandas.get_dummies, pandas.to_datetime, pandas.to_numeric, pandas.melt]
    runs = KedroPipelineModel(
        pipeline=Pipeline([node(each, "x", f"y{place}") for place, each in enumerate(steps)]),
        catalog=DataCatalog(),
        input_name="x",
        runner="SequentialRunner",
    )
    assert check(make_bundle, pickle.dumps(runs)) == []
    assert check(make_bundle, pickle.dumps([pandas.merge, pandas.cut])) == []
    called = whole(call(named("pandas", "concat"), []))
    assert any("calls pandas.concat, which data only names" in each for each in check(make_bundle, called))
    assert check(make_bundle, pickle.dumps(pandas.eval)) != []
