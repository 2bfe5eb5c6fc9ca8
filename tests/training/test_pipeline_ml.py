from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import click
import pytest
from kedro.pipeline import Pipeline, node, pipeline

from kbuild.errors import PipelineMLError
from kbuild.training.pipeline_ml import PipelineML, find_lost_nodes, pipeline_ml_factory


def identity(value: Any) -> Any:
    return value


def pair(one: Any, two: Any) -> Any:
    return one, two


def make_training() -> Pipeline:
    return Pipeline(
        [
            node(identity, "raw", "clean", name="clean", tags="data"),
            node(identity, "clean", "weights", name="fit", tags="learn", namespace="deep"),
            node(identity, "weights", "report", name="report", tags="learn"),
        ]
    )


def make_inference() -> Pipeline:
    return Pipeline([node(pair, ["raw", "weights"], "answer", name="answer")])


def make_pipeline_ml(**kwargs: Any) -> PipelineML:
    return pipeline_ml_factory(make_training(), make_inference(), "raw", **kwargs)


OTHER = Pipeline([node(identity, "elsewhere", "there", name="other", tags="data")])
EMPTY = Pipeline([])
OPERATIONS: dict[str, tuple[Callable[[PipelineML], Any], set[str]]] = {
    "empty + it": (lambda p: EMPTY + p, {"clean", "deep.fit", "report"}),
    "it + empty": (lambda p: p + EMPTY, {"clean", "deep.fit", "report"}),
    "other + it": (lambda p: OTHER + p, {"clean", "deep.fit", "report", "other"}),
    "it + other": (lambda p: p + OTHER, {"clean", "deep.fit", "report", "other"}),
    "sum of all": (lambda p: sum([OTHER, p, EMPTY]), {"clean", "deep.fit", "report", "other"}),
    "sum, it first": (lambda p: sum([p, OTHER]), {"clean", "deep.fit", "report", "other"}),
    "other | it": (lambda p: OTHER | p, {"clean", "deep.fit", "report", "other"}),
    "it | other": (lambda p: p | OTHER, {"clean", "deep.fit", "report", "other"}),
    "plain & it": (lambda p: make_training() & p, {"clean", "deep.fit", "report"}),
    "it & plain": (lambda p: p & make_training(), {"clean", "deep.fit", "report"}),
    "it & it": (lambda p: p & make_pipeline_ml(log_model_kwargs={"name": "it"}), {"clean", "deep.fit", "report"}),
    "it - other": (lambda p: p - OTHER, {"clean", "deep.fit", "report"}),
    "it - some": (lambda p: p - make_training().only_nodes("clean"), {"deep.fit", "report"}),
    "with itself": (lambda p: p + make_pipeline_ml(log_model_kwargs={"name": "it"}), {"clean", "deep.fit", "report"}),
    "tag": (lambda p: p.tag(["one", "two"]), {"clean", "deep.fit", "report"}),
    "tag by a word": (lambda p: p.tag("one"), {"clean", "deep.fit", "report"}),
    "filter nothing": (lambda p: p.filter(), {"clean", "deep.fit", "report"}),
    "filter tags": (lambda p: p.filter(tags=["learn"]), {"deep.fit", "report"}),
    "filter from_nodes": (lambda p: p.filter(from_nodes=["deep.fit"]), {"deep.fit", "report"}),
    "filter to_nodes": (lambda p: p.filter(to_nodes=["deep.fit"]), {"clean", "deep.fit"}),
    "filter both": (lambda p: p.filter(from_nodes=["deep.fit"], to_nodes=["deep.fit"]), {"deep.fit"}),
    "filter node_names": (lambda p: p.filter(node_names=["report"]), {"report"}),
    "filter from_inputs": (lambda p: p.filter(from_inputs=["clean"]), {"deep.fit", "report"}),
    "filter to_outputs": (lambda p: p.filter(to_outputs=["weights"]), {"clean", "deep.fit"}),
    "filter namespaces": (lambda p: p.filter(node_namespaces=["deep"]), {"deep.fit"}),
    "only_nodes": (lambda p: p.only_nodes("clean"), {"clean"}),
    "only_nodes_with_inputs": (lambda p: p.only_nodes_with_inputs("raw"), {"clean"}),
    "only_nodes_with_outputs": (lambda p: p.only_nodes_with_outputs("report"), {"report"}),
    "only_nodes_with_tags": (lambda p: p.only_nodes_with_tags("data"), {"clean"}),
    "only_nodes_with_namespaces": (lambda p: p.only_nodes_with_namespaces(["deep"]), {"deep.fit"}),
    "from_nodes": (lambda p: p.from_nodes("deep.fit"), {"deep.fit", "report"}),
    "to_nodes": (lambda p: p.to_nodes("deep.fit"), {"clean", "deep.fit"}),
    "from_inputs": (lambda p: p.from_inputs("weights"), {"report"}),
    "to_outputs": (lambda p: p.to_outputs("clean"), {"clean"}),
    "pickle": (lambda p: pickle.loads(pickle.dumps(p)), {"clean", "deep.fit", "report"}),
    "as kedro run does": (
        lambda p: (EMPTY + p + OTHER).filter(tags=["data"], from_nodes=["clean", "other"]),
        {"clean", "other"},
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_keeps_its_inference_pipeline(operation: str) -> None:
    do, names = OPERATIONS[operation]
    made = do(make_pipeline_ml(log_model_kwargs={"name": "it"}))
    assert type(made) is PipelineML
    assert {each.name for each in made.nodes} == names
    assert made.inference.nodes == make_inference().nodes
    assert made.input_name == "raw"
    assert made.log_model_kwargs == {"name": "it"}
    assert find_lost_nodes(made) == []
    assert made.trains


def test_tags_reach_the_training_nodes_only() -> None:
    made = make_pipeline_ml().tag("night")
    assert all("night" in each.tags for each in made.nodes)
    assert all("night" not in each.tags for each in made.inference.nodes)


def test_training_is_a_plain_pipeline_of_the_same_nodes() -> None:
    made = make_pipeline_ml()
    assert type(made.training) is Pipeline
    assert made.training.nodes == make_training().nodes
    assert made.training.nodes[0].tags == make_training().nodes[0].tags


def test_what_is_left_of_another_pipeline_is_no_training() -> None:
    rest = (OTHER + make_training()) - make_pipeline_ml()
    assert type(rest) is Pipeline
    assert [each.name for each in rest.nodes] == ["other"]


def test_a_sum_filtered_down_to_other_nodes_does_not_train() -> None:
    made = (make_pipeline_ml() + OTHER).only_nodes("other")
    assert isinstance(made, PipelineML)
    assert not made.trains


def test_an_operation_with_something_else_is_refused() -> None:
    for operate in (lambda p: p + 1, lambda p: p - 1, lambda p: p & 1, lambda p: p | 1, lambda p: 1 - p):
        with pytest.raises(TypeError):
            operate(make_pipeline_ml())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda p: Pipeline(p),
        lambda p: Pipeline([p, OTHER]),
        lambda p: pipeline(p, namespace="night"),
        lambda p: pipeline(p, namespace="night") + make_pipeline_ml(),
        lambda p: OTHER + pipeline([p]).tag("x"),
        lambda p: pipeline(p, inputs={"raw"}, namespace="x"),
    ],
)
def test_a_wrapped_one_is_found_out(wrap: Callable[[PipelineML], Pipeline]) -> None:
    assert find_lost_nodes(wrap(make_pipeline_ml()))


def test_namespaces_may_be_given_before_it_is_made() -> None:
    training = pipeline(make_training(), namespace="night", inputs={"raw"}, outputs={"weights"})
    made = EMPTY + pipeline_ml_factory(training, make_inference(), "raw")
    assert made.filter(node_namespaces=["night"]).input_name == "raw"


def test_two_different_ones_summed_are_refused_when_asked_for_the_model() -> None:
    other = pipeline_ml_factory(
        Pipeline([node(identity, "a", "b", name="b")]), Pipeline([node(pair, ["a", "b"], "c", name="c")]), "a"
    )
    both = make_pipeline_ml() + other
    with pytest.raises(PipelineMLError, match="one by one"):
        raise_with_hint(lambda: both.inference)
    # The sum stays usable as the default pipeline: filtered to one of the two, it is that one.
    assert both.only_nodes("b").input_name == "a"
    assert both.filter(tags=["learn"]).input_name == "raw"


def raise_with_hint(act: Callable[[], object]) -> None:
    try:
        act()
    except PipelineMLError as error:
        raise PipelineMLError(f"{error.message} {error.hint}") from error


def test_two_with_the_same_inference_are_one() -> None:
    other = pipeline_ml_factory(Pipeline([node(identity, "raw", "weights2", name="fit2")]), make_single(), "raw")
    one = pipeline_ml_factory(make_training(), make_single(), "raw")
    assert (one + other).inference.nodes == make_single().nodes


def make_single() -> Pipeline:
    return Pipeline([node(identity, "raw", "answer", name="answer")])


def test_equal_and_hashable() -> None:
    assert make_pipeline_ml() == make_pipeline_ml()
    assert hash(make_pipeline_ml()) == hash(make_pipeline_ml())
    assert make_pipeline_ml() != make_pipeline_ml(log_model_kwargs={"name": "else"})
    assert make_pipeline_ml() != make_pipeline_ml().only_nodes("clean")
    assert make_pipeline_ml() != make_training()
    assert "input_name='raw'" in repr(make_pipeline_ml())


def test_reused_inputs_are_those_the_filter_leaves_unmade() -> None:
    assert make_pipeline_ml().reused_names == []
    assert make_pipeline_ml().only_nodes("report").reused_names == ["weights"]


def test_every_problem_is_told_at_once() -> None:
    inference = Pipeline([node(pair, ["fresh", "unknown"], None, name="answer")])
    with pytest.raises(PipelineMLError) as caught:
        pipeline_ml_factory(
            make_training(),
            inference,
            "nowhere",
            kpm_kwargs={"copymode": "copy"},
            log_model_kwargs={"name": "a", "artifact_path": "b", "code_path": [], "python_model": None},
        )
    message = caught.value.message
    for part in (
        "input_name 'nowhere' is not an input",
        "'fresh', 'unknown'",
        "has no output",
        "did you mean 'copy_mode'?",
        "did you mean 'code_paths'?",
        "unknown 'python_model'",
        "both 'name' and 'artifact_path'",
    ):
        assert part in message


def test_an_input_of_training_and_parameters_are_allowed() -> None:
    inference = Pipeline(
        [node(lambda *args: args, ["new", "raw", "params:a.b", "parameters"], "answer", name="answer")]
    )
    assert pipeline_ml_factory(make_training(), inference, "new").input_name == "new"


def test_a_parameter_is_no_input_of_a_request() -> None:
    inference = Pipeline([node(pair, ["params:a", "weights"], "answer", name="answer")])
    with pytest.raises(PipelineMLError, match="is a parameter"):
        pipeline_ml_factory(make_training(), inference, "params:a")


def test_an_empty_inference_pipeline_is_refused() -> None:
    with pytest.raises(PipelineMLError, match="has no nodes"):
        pipeline_ml_factory(make_training(), EMPTY, "raw")


def test_the_old_name_of_the_name_is_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="write 'name' instead"):
        made = make_pipeline_ml(log_model_kwargs={"artifact_path": "here"})
    assert made.log_model_kwargs == {"name": "here"}
    assert make_pipeline_ml().log_model_kwargs == {"name": "model"}


def test_the_constructor_is_that_of_kedro_mlflow() -> None:
    made = PipelineML(
        make_training().nodes, tags="x", inference=make_inference(), input_name="raw", kpm_kwargs={"copy_mode": "copy"}
    )
    assert made.kpm_kwargs == {"copy_mode": "copy"}
    assert all("x" in each.tags for each in made.nodes)


def test_transcoded_names_are_one_dataset() -> None:
    training = Pipeline([node(identity, "raw", "weights@pickle", name="fit")])
    inference = Pipeline([node(pair, ["raw", "weights@json"], "answer", name="answer")])
    assert pipeline_ml_factory(training, inference, "raw").trains


def test_what_is_no_pair_of_pipelines_is_refused() -> None:
    with pytest.raises(PipelineMLError, match=r"^the training pipeline is a str, 'a', not a Kedro pipeline"):
        pipeline_ml_factory("a", make_inference(), "raw")  # type: ignore[arg-type]
    with pytest.raises(PipelineMLError, match="the inference pipeline is a str"):
        pipeline_ml_factory(make_training(), "raw", "raw")  # type: ignore[arg-type]
    with pytest.raises(PipelineMLError, match="input_name is a set"):
        pipeline_ml_factory(make_training(), make_inference(), {"raw"})  # type: ignore[arg-type]
    for training in (make_training(), make_training().tag("again")):
        with pytest.raises(PipelineMLError, match="bound to itself"):
            pipeline_ml_factory(training, training, "raw")


def test_kedros_command_line_shows_what_does_not_fit_as_one_line() -> None:
    """It registers pipelines before any hook is called, and shows exceptions of click's kind without a traceback."""
    with pytest.raises(PipelineMLError) as caught:
        pipeline_ml_factory(Pipeline([node(len, "table", "size")]), "inference", "table")  # type: ignore[arg-type]
    shown = caught.value
    assert isinstance(shown, click.ClickException)
    assert shown.exit_code == 16
    assert shown.format_message().startswith(
        "the inference pipeline is a str, 'inference', not a Kedro pipeline\nHint: "
    )
