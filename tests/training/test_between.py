"""What the catalog makes of values on their way from node to node is part of the pipeline's own answer."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import mlflow
import pandas as pd
import pytest
from kedro.io import AbstractVersionedDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.pandas.sql_dataset import SQLTableDataset
from kedro_datasets.pickle.pickle_dataset import PickleDataset
from scipy.sparse import csr_matrix

from kbuild.errors import RecordingError
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.input.data import find_data
from kbuild.recording.input.early import check_kind
from kbuild.recording.own import OwnRun
from kbuild.recording.record import record_model
from kbuild.training.artifacts import settle_inputs
from kbuild.training.pipeline_ml import pipeline_ml_factory

pytestmark = pytest.mark.filterwarnings("ignore")
SAVED: list[str] = []
SAVED_BESIDE: list[str] = []
TABLE = pd.DataFrame({"id": ["007", "08"]})
since_1_7 = pytest.mark.skipif(not hasattr(DataCatalog, "validators"), reason="Kedro has validators since 1.7")


def fit(table: Any) -> float:
    return 2.0


def prepare(table: Any, factor: float) -> Any:
    return table.set_index(pd.Index(["a", "b"][: len(table)]))


def tell(prepared: Any) -> list[str]:
    return [f"{type(each).__name__} {each}" for each in prepared["id"]] + [str(prepared.index[0])]


INFERENCE = Pipeline([node(prepare, ["table", "factor"], "prepared"), node(tell, "prepared", "told")])


def ask(catalog: DataCatalog, pipeline: Pipeline = INFERENCE) -> Any:
    return OwnRun(pipeline, catalog, in_memory=()).run({"table": TABLE, "factor": 2.0})["told"]


def test_what_lies_between_goes_through_a_file_like_the_catalogs(tmp_path: Path) -> None:
    entry = {"type": "pandas.CSVDataset", "filepath": str(tmp_path / "prepared.csv")}
    # As pandas reads the CSV file that Kedro writes without an index.
    assert ask(DataCatalog.from_config({"prepared": entry})) == ["int 7", "int 8", "0"]
    read_as = {**entry, "load_args": {"dtype": {"id": "str"}}, "versioned": True}
    assert ask(DataCatalog.from_config({"prepared": read_as}, save_version="v1")) == ["str 007", "str 08", "0"]
    assert ask(DataCatalog()) == ask(DataCatalog({"prepared": MemoryDataset()})) == ["str 007", "str 08", "a"]
    assert not list(tmp_path.iterdir()), "nothing of the catalog is written"


def test_a_dataset_that_cannot_be_made_anew_hands_on_what_it_was_given(tmp_path: Path) -> None:
    lost = {"type": "json.JSONDataset", "filepath": str(tmp_path / "prepared.json")}  # a table is no JSON
    assert ask(DataCatalog.from_config({"prepared": lost})) == ["str 007", "str 08", "a"]


def count(held: Any) -> int:
    return int(held[0].shape[1] if isinstance(held, tuple) else held.shape[1])


@pytest.mark.parametrize("held", [csr_matrix([[1.0, 0.0]]), (pd.DataFrame({"a": [1], "b": [2]}),)], ids=type)
def test_a_value_whose_equality_is_not_one_truth_goes_through_its_file(held: Any, tmp_path: Path) -> None:
    entry = {"type": "pickle.PickleDataset", "filepath": str(tmp_path / "held.pkl")}
    made = node(lambda table, factor: held, ["table", "factor"], "held", name="made")
    own = OwnRun(Pipeline([made, node(count, "held", "told")]), DataCatalog.from_config({"held": entry}), in_memory=())
    assert own.run({"table": TABLE, "factor": 2.0}) == {"told": 2}
    assert own.changes == {}


class OnACluster(AbstractVersionedDataset[Any, Any]):
    """As Kedro's SparkDataset: a path without a scheme is one of the cluster's own file system, not of this machine."""

    def __init__(self, filepath: str) -> None:
        super().__init__(PurePosixPath(filepath), None)

    def save(self, data: Any) -> None:
        SAVED.append(str(self._filepath))

    def load(self) -> Any:
        return TABLE

    def _describe(self) -> dict[str, Any]:
        return {}


class ByFsspec(OnACluster):
    """Stays where it is, whatever place it is given."""

    def __init__(self, filepath: str) -> None:
        super().__init__(filepath)
        self._protocol = "s3"


class Beside(PickleDataset):
    """Keeps its data in a place of its own."""

    def __init__(self, filepath: str) -> None:
        super().__init__(filepath=SAVED_BESIDE[0])

    def save(self, data: Any) -> None:
        SAVED.append(str(self._filepath))


@pytest.mark.parametrize("kind", [OnACluster, ByFsspec, Beside])
def test_a_dataset_that_may_write_elsewhere_than_to_this_machine_is_not_made_anew(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SAVED", [])
    monkeypatch.setattr(f"{__name__}.SAVED_BESIDE", [str(tmp_path / "beside.pkl")])
    assert ask(DataCatalog({"prepared": kind(filepath=str(tmp_path / "prepared"))})) == ["str 007", "str 08", "a"]
    assert SAVED == []


class Scale:
    """Has the == of every object: identity."""

    def __init__(self, factor: float) -> None:
        self.factor = factor


class Doubling(PickleDataset):
    def load(self) -> Any:
        (held,) = super().load()
        return [Scale(held.factor * 2)]


@pytest.mark.parametrize(("kind", "changed"), [(PickleDataset, set()), (Doubling, {"held"})])
def test_values_that_are_equal_by_identity_alone_are_compared_by_what_they_hold(
    kind: Any, changed: set[str], tmp_path: Path
) -> None:
    made = node(lambda table, factor: [Scale(factor)], ["table", "factor"], "held", name="made")
    pipeline = Pipeline([made, node(lambda held: held[0].factor, "held", "told", name="told")])
    catalog = DataCatalog({"held": kind(filepath=str(tmp_path / "held.pkl"))})
    own = OwnRun(pipeline, catalog, in_memory=())
    assert own.run({"table": TABLE, "factor": 2.0}) == {"told": 4.0 if changed else 2.0}
    assert set(own.changes) == changed


class Placed(PickleDataset):
    """Saves only where its folder is made for it."""

    def save(self, data: Any) -> None:
        if not Path(str(self._filepath)).with_name("mark").exists():
            raise OSError("no mark is there")
        super().save(data)


def make(table: Any, factor: float) -> Any:
    return pd.DataFrame({"x": [2]})


def spoil(held: Any) -> list[int]:
    held["x"] = 0
    return list(held["x"])


def read(held: Any) -> list[int]:
    return list(held["x"])


@pytest.mark.parametrize("chosen", [None, "assign"])
def test_readers_share_nothing_where_a_dataset_cannot_be_made_anew(chosen: Any, tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    nodes = [
        node(make, ["table", "factor"], "held", name="1"),
        node(spoil, "held", "spoiled", name="2"),
        node(read, "held", "told", name="3"),
    ]
    catalog = DataCatalog({"held": Placed(filepath=str(tmp_path / "held.pkl"))})
    given = {"table": TABLE, "factor": 2.0}
    kept = {name: MemoryDataset(value) for name, value in given.items()}
    kept |= {"spoiled": MemoryDataset(), "told": MemoryDataset()}
    SequentialRunner().run(Pipeline(nodes), DataCatalog({**kept, "held": catalog["held"]}))
    own = OwnRun(Pipeline(nodes), catalog, in_memory=(), copy_mode=chosen).run(given)
    assert own == {name: kept[name].load() for name in ("spoiled", "told")} == {"spoiled": [0], "told": [2]}


class Precious:
    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("there is but one")


def test_what_can_neither_be_saved_nor_copied_is_handed_on(tmp_path: Path) -> None:
    made = node(lambda table, factor: Precious(7), ["table", "factor"], "held", name="made")
    pipeline = Pipeline([made, node(lambda held: held.number, "held", "told", name="told")])
    for place in (
        PickleDataset(filepath=str(tmp_path / "held.pkl")),
        SQLTableDataset(table_name="held", credentials={"con": "sqlite://"}),
    ):
        assert ask(DataCatalog({"held": place}), pipeline) == 7


def record(catalog: DataCatalog) -> None:
    bound = pipeline_ml_factory(Pipeline([node(fit, "table", "factor")]), INFERENCE, "table")
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    record_model(bound, catalog, run_id=run_id, settings=TrainingSettings(check=False))


@pytest.mark.slow
def test_a_model_that_hands_on_otherwise_is_refused(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    entry = {"type": "pandas.CSVDataset", "filepath": str(tmp_path / "prepared.csv")}
    catalog = DataCatalog.from_config({"prepared": entry})
    catalog["table"], catalog["factor"] = TABLE, 2.0
    with pytest.raises(RecordingError, match="in the catalog the column 'id' of 'prepared' has the type") as caught:
        record(catalog)
    assert "hands 'prepared' from node to node as it is" in (caught.value.hint or "")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("checks_of_mine")
    module.tenfold = lambda value: {key: each * 10 for key, each in value.items()}
    module.as_it_is = lambda value: value
    module.to_text = lambda table: table.astype(str) + "!"
    monkeypatch.setitem(sys.modules, "checks_of_mine", module)


@since_1_7
@pytest.mark.usefixtures("checks")
def test_artifacts_are_what_the_validator_gives(tmp_path: Path) -> None:
    entry = {
        "type": "json.JSONDataset",
        "filepath": str(tmp_path / "w.json"),
        "validator": {"class": "checks_of_mine.tenfold", "on": ["load"]},
    }
    JSONDataset(filepath=str(tmp_path / "w.json")).save({"a": 1})
    catalog = DataCatalog.from_config({"w": entry})
    assert catalog.load("w") == {"a": 10}
    assert settle_inputs(["w"], catalog, tmp_path / "out").values == {"w": {"a": 10}}
    by_pattern = {"{name}": {**entry, "filepath": str(tmp_path / "{name}.json")}}
    assert DataCatalog.from_config(by_pattern).load("w") == {"a": 10}
    fresh = DataCatalog.from_config(by_pattern)
    assert settle_inputs(["w"], fresh, tmp_path / "fresh").values == {"w": {"a": 10}}
    off = DataCatalog.from_config({"w": entry}, validation_enabled=False)
    assert settle_inputs(["w"], off, tmp_path / "off").values == {"w": {"a": 1}}
    # In memory the validator has a say when it is saved, and again when it is loaded.
    kept = DataCatalog.from_config({"w": {"type": "MemoryDataset", "validator": "checks_of_mine.tenfold"}})
    kept.save("w", {"a": 1})
    assert kept.load("w") == {"a": 100}
    kept.release("w")
    assert settle_inputs(["w"], kept, tmp_path / "kept", captured={"w": {"a": 1}}).values == {"w": {"a": 100}}


@pytest.mark.slow
@since_1_7
@pytest.mark.usefixtures("checks")
def test_the_input_and_what_lies_between_are_what_their_validators_give(
    store: mlflow.MlflowClient, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    place = tmp_path / "table.pkl"
    TABLE.to_pickle(place)
    entry = {"type": "pickle.PickleDataset", "filepath": str(place), "validator": "checks_of_mine.to_text"}
    catalog = DataCatalog.from_config({"table": entry})
    catalog["factor"] = 2.0
    record(catalog)
    assert "validator of 'table' gives nodes something else than its data: the values" in caplog.text
    model = store.search_logged_models(["0"])[0]
    folder = Path(mlflow.artifacts.download_artifacts(model.model_uri))
    assert '"007!"' in (folder / "serving_input_example.json").read_text("utf-8")
    between = DataCatalog.from_config(
        {"prepared": {"type": "MemoryDataset", "validator": {"class": "checks_of_mine.to_text", "on": ["save"]}}}
    )
    assert ask(between) == ["str 007!", "str 08!", "a"]


@since_1_7
@pytest.mark.usefixtures("checks")
def test_what_a_validator_mends_is_not_refused_before_training() -> None:
    mixed = pd.DataFrame({"a": pd.Series([1, "x"], dtype=object)})
    entry = {"x": {"type": "MemoryDataset", "validator": "checks_of_mine.to_text"}}
    catalog = DataCatalog.from_config(entry)
    catalog.get("x").save(mixed)
    assert check_kind("x", catalog.get("x"), {}, made=False) is not None
    assert check_kind("x", catalog.get("x"), {}, made=False, catalog=catalog) is None


def test_what_a_cache_holds_does_not_go_through_its_file(tmp_path: Path) -> None:
    file = {"type": "pandas.CSVDataset", "filepath": str(tmp_path / "prepared.csv")}
    config = {"prepared": {"type": "kedro.io.CachedDataset", "dataset": file}}
    catalog = DataCatalog.from_config(config)
    catalog["table"], catalog["factor"] = MemoryDataset(TABLE), MemoryDataset(2.0)
    told = SequentialRunner().run(INFERENCE, catalog)["told"].load()
    assert ask(DataCatalog.from_config(config)) == told == ["str 007", "str 08", "a"]


@since_1_7
@pytest.mark.usefixtures("checks")
def test_an_input_whose_equality_is_not_plain_may_have_a_validator() -> None:
    entry = {"x": {"type": "MemoryDataset", "validator": "checks_of_mine.as_it_is"}}
    found, is_there = find_data(["x"], DataCatalog.from_config(entry), {"x": (TABLE, csr_matrix([[1.0]]))})
    assert is_there and found[0].equals(TABLE)
