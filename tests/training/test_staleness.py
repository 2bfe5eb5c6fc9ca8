from __future__ import annotations

import pytest
from kedro.pipeline import Pipeline, node

from kbuild.errors import RecordingError
from kbuild.training.pipeline_ml import PipelineML, pipeline_ml_factory
from kbuild.training.staleness import check_fresh, find_stale


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
