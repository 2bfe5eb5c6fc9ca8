from __future__ import annotations

import pytest
from kedro.io import MemoryDataset, Version
from kedro.pipeline import Pipeline, node
from kedro_datasets.json.json_dataset import JSONDataset

from kbuild.errors import RecordingError
from kbuild.training.pipeline_ml import PipelineML, pipeline_ml_factory
from kbuild.training.staleness import check_fresh, check_versions, find_stale


def one(*args: object) -> object:
    return args


TRAINING = Pipeline(
    [
        node(one, "params:seed", "raw", name="make"),
        node(one, "raw", "scaler", name="fit_scaler"),
        node(one, ["raw", "scaler"], "scaled@csv", name="scale"),
        node(one, "scaled@pandas", "regressor@pickle", name="fit_regressor"),
        node(one, "words", "encoder", name="fit_encoder"),
        node(one, "regressor@pickle", "score", name="evaluate"),
    ]
)
INFERENCE = Pipeline([node(one, ["raw", "scaler", "encoder", "regressor@joblib"], "answer", name="answer")])


def bind() -> PipelineML:
    return pipeline_ml_factory(TRAINING, INFERENCE, "raw")


CASES: dict[str, tuple[list[str], list[str]]] = {
    "everything": (["make", "fit_scaler", "scale", "fit_regressor", "fit_encoder", "evaluate"], []),
    "up to the scaler": (["make", "fit_scaler"], ["scale", "fit_regressor"]),
    "the scaler": (["fit_scaler"], ["scale", "fit_regressor"]),
    "the data": (["make"], ["fit_scaler", "scale", "fit_regressor"]),
    "what lies upstream is reused": (["scale", "fit_regressor"], []),
    "what lies apart is reused": (["fit_encoder"], []),
    "the measuring is no input": (["fit_regressor"], []),
    "only the measuring": (["evaluate"], []),
    # The regressor is made anew, of a scaled table that is not.
    "a hole in between": (["fit_scaler", "fit_regressor"], ["scale"]),
}


@pytest.mark.parametrize("case", CASES)
def test_nodes_between_what_ran_and_what_is_served(case: str) -> None:
    ran, lacking = CASES[case]
    bound = bind().only_nodes(*ran)
    assert list(find_stale(bound.binding, bound.nodes).nodes) == lacking
    if lacking:
        with pytest.raises(RecordingError, match=", ".join(lacking)) as caught:
            check_fresh(bound.binding, bound.nodes)
        hint = caught.value.hint or ""
        assert set(hint.partition("--nodes=")[2].partition(";")[0].split(",")) == {*ran, *lacking}


def test_nodes_of_another_pipeline_count() -> None:
    etl = Pipeline([node(one, "letters", "words", name="split")])
    bound = (etl + bind()).only_nodes("split", "evaluate")
    assert find_stale(bound.binding, bound.nodes).nodes == ("fit_encoder",)
    assert find_stale(bound.binding, bound.nodes).inputs == {"encoder": ("split",)}


def test_transcoded_inputs_are_made_by_training() -> None:
    assert bind().reused_names == []
    assert bind().only_nodes("fit_encoder").reused_names == ["regressor@joblib", "scaler"]


def versioned(load: str | None, save: str = "now") -> JSONDataset:
    return JSONDataset(filepath="data.json", version=Version(load, save))


PINNED: dict[str, tuple[dict[str, str | None], list[str], list[str]]] = {
    "nothing": ({"scaler": None, "raw": None}, ["make", "fit_scaler", "scale", "fit_regressor"], []),
    "an input": ({"scaler": "old"}, ["make", "fit_scaler", "scale", "fit_regressor"], ["scaler"]),
    "what an input is made of": ({"raw": "old", "scaler": "now"}, ["make", "fit_scaler", "scale"], ["raw"]),
    "two": ({"scaler": "old", "encoder": "old"}, ["fit_scaler", "fit_encoder"], ["scaler", "encoder"]),
    "an input that is reused": ({"scaler": "old", "raw": "old"}, ["scale", "fit_regressor"], []),
    "what no input is made of": ({"score": "old", "words": "old"}, ["fit_encoder", "evaluate"], []),
}


@pytest.mark.parametrize("case", PINNED)
def test_an_old_version_of_what_a_run_makes_is_none_of_its_model(case: str) -> None:
    pinned, ran, told = PINNED[case]
    bound = bind().only_nodes(*ran)
    found = {**{name: versioned(load) for name, load in pinned.items()}, "scaled@csv": MemoryDataset()}
    if not told:
        check_versions(bound.binding, bound.nodes, found.get)
        return
    with pytest.raises(RecordingError, match="no model: this run makes") as caught:
        check_versions(bound.binding, bound.nodes, found.get)
    assert all(f"{name!r} (by " in caught.value.message and name in (caught.value.hint or "") for name in told)
    assert caught.value.message.count("its version old") == len(told)


def test_a_dataset_of_another_kind_may_call_anything_its_version() -> None:
    other = versioned(None)
    other.__dict__["_version"] = "1.0"
    check_versions(bind().binding, bind().nodes, lambda _: other)
