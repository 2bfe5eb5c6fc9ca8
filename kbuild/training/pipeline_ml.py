"""PipelineML: a training pipeline with the inference pipeline that serves what it trains.

A Kedro run builds the pipeline it runs from ``Pipeline([])`` by sums, filters and intersections. Each of them is
answered here with a PipelineML again, in either order of the operands. What Python gives no way to answer, a
PipelineML wrapped by ``Pipeline(…)`` or ``pipeline(…)``, leaves marked nodes behind, by which the hook sees
that an inference pipeline was lost and stops the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.pipeline import Pipeline

from kbuild.errors import PipelineMLError
from kbuild.training.binding import Binding, make_binding, merge_bindings

if TYPE_CHECKING:
    from kedro.pipeline.node import Node

# A node tag, since tags are what Kedro carries through every copy of a node.
TRAINING_TAG = "kbuild.training"


class PipelineML(Pipeline):  # type: ignore[misc]
    """A training pipeline, with ``.training``, ``.inference``, ``.input_name``, ``.kpm_kwargs``, ``.log_model_kwargs``.

    ``kpm_kwargs`` go to KedroPipelineModel (``copy_mode``, ``runner``, ``hooks``), ``log_model_kwargs`` to MLflow's
    ``log_model``.
    Raises PipelineMLError, naming everything that does not fit, when the two pipelines do not belong together.
    """

    def __init__(
        self,
        nodes: Iterable[Node | Pipeline] | Pipeline,
        *args: Any,
        tags: str | Iterable[str] | None = None,
        inference: Pipeline,
        input_name: str | Sequence[str],
        kpm_kwargs: Mapping[str, Any] | None = None,
        log_model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        training = Pipeline(nodes, *args, tags=tags)
        binding = make_binding(training, inference, input_name, kpm_kwargs, log_model_kwargs)
        self._assemble(training.nodes, (binding,))

    def _assemble(self, nodes: Iterable[Node], bindings: tuple[Binding, ...]) -> None:
        self._plain_nodes = list(dict.fromkeys(nodes))
        names = {node.name for node in self._plain_nodes}
        # A pipeline of which no training node is left still knows whose it was.
        self._bindings = tuple(each for each in bindings if each.training_names & names) or bindings
        trained = frozenset[str]().union(*(each.training_names for each in self._bindings))
        super().__init__([node.tag(TRAINING_TAG) if node.name in trained else node for node in self._plain_nodes])

    @classmethod
    def _make(cls, nodes: Iterable[Node], bindings: tuple[Binding, ...]) -> PipelineML:
        made: PipelineML = cls.__new__(cls)
        made._assemble(nodes, bindings)
        return made

    def _keep(self, part: Pipeline) -> PipelineML:
        names = {node.name for node in part.nodes}
        return self._make([node for node in self._plain_nodes if node.name in names], self._bindings)

    @property
    def binding(self) -> Binding:
        """The one inference pipeline of this training; raises PipelineMLError when several were summed."""
        if len(self._bindings) > 1:
            inputs = ", ".join(repr(each.input_name) for each in self._bindings)
            raise PipelineMLError(
                f"{len(self._bindings)} training pipelines that serve different models "
                f"(of inputs {inputs}) were put together, so there is no one model to log",
                hint="run them one by one: kedro run --pipelines <one of them>",
            )
        return self._bindings[0]

    @property
    def training(self) -> Pipeline:
        """The nodes that run, as a plain pipeline."""
        return Pipeline(self._plain_nodes)

    @property
    def inference(self) -> Pipeline:
        """The pipeline that is served."""
        return self.binding.inference

    @property
    def input_name(self) -> str:
        """The input of the inference pipeline that a request brings."""
        return self.binding.input_name

    @property
    def input_names(self) -> tuple[str, ...]:
        """The datasets that a request brings; several come in one dict, by these names."""
        return self.binding.input_names

    @property
    def kpm_kwargs(self) -> dict[str, Any]:
        """Arguments for KedroPipelineModel."""
        return dict(self.binding.kpm_kwargs)

    @property
    def log_model_kwargs(self) -> dict[str, Any]:
        """Arguments for MLflow's ``log_model``; ``name`` is always there."""
        return dict(self.binding.log_model_kwargs)

    @property
    def trains(self) -> bool:
        """Whether any node of the training pipeline is left after filtering."""
        names = {node.name for node in self._plain_nodes}
        return any(each.training_names & names for each in self._bindings)

    @property
    def reused_names(self) -> list[str]:
        """Inference inputs that training makes, but not the nodes that are left after filtering; sorted."""
        made = {name.partition("@")[0] for name in self.all_outputs()}
        return sorted(name for name in self.binding.made_names if name.partition("@")[0] not in made)

    def by_default(self, **log_model_kwargs: Any) -> PipelineML:
        """The same with these arguments for MLflow's ``log_model``, where it has none of that name."""
        given = log_model_kwargs
        bindings = (replace(each, log_model_kwargs={**given, **each.log_model_kwargs}) for each in self._bindings)
        return self._make(self._plain_nodes, tuple(bindings))

    def extract_pipeline_artifacts(
        self, catalog: Any, parameters_saving_folder: str | Path | None = None
    ) -> dict[str, str]:
        """The files the inference pipeline needs: ``{dataset name: uri}``; see KedroPipelineModel for the details."""
        from kbuild.training.pyfunc import KedroPipelineModel

        model = KedroPipelineModel(pipeline_ml=self, catalog=catalog)
        return model.extract_pipeline_artifacts(parameters_saving_folder)

    def __add__(self, other: Any) -> PipelineML:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return self._make([*self._plain_nodes, *_plain(other)], merge_bindings(self._bindings, _bindings(other)))

    def __radd__(self, other: Any) -> PipelineML:
        if isinstance(other, int) and other == 0:
            return self
        return self.__add__(other)

    __or__ = __add__
    __ror__ = __add__

    def __and__(self, other: Any) -> PipelineML:
        if not isinstance(other, Pipeline):
            return NotImplemented
        theirs = set(other.nodes)
        bindings = merge_bindings(self._bindings, _bindings(other))
        return self._make([node for node in self._plain_nodes if node in theirs], bindings)

    __rand__ = __and__

    def __sub__(self, other: Any) -> PipelineML:
        if not isinstance(other, Pipeline):
            return NotImplemented
        theirs = set(other.nodes)
        return self._make([node for node in self._plain_nodes if node not in theirs], self._bindings)

    def __rsub__(self, other: Any) -> Pipeline:
        # Who takes a training pipeline out of another pipeline wants the rest, which trains nothing.
        if not isinstance(other, Pipeline):
            return NotImplemented
        mine = set(self._plain_nodes)
        return Pipeline([node for node in other.nodes if node not in mine])

    def tag(self, tags: str | Iterable[str]) -> PipelineML:
        return self._make([node.tag(tags) for node in self._plain_nodes], self._bindings)

    def filter(self, *args: Any, **kwargs: Any) -> PipelineML:
        return self._keep(super().filter(*args, **kwargs))

    def only_nodes(self, *node_names: str) -> PipelineML:
        return self._keep(super().only_nodes(*node_names))

    def only_nodes_with_namespaces(self, node_namespaces: list[str]) -> PipelineML:
        return self._keep(super().only_nodes_with_namespaces(node_namespaces))

    def only_nodes_with_inputs(self, *inputs: str) -> PipelineML:
        return self._keep(super().only_nodes_with_inputs(*inputs))

    def only_nodes_with_outputs(self, *outputs: str) -> PipelineML:
        return self._keep(super().only_nodes_with_outputs(*outputs))

    def only_nodes_with_tags(self, *tags: str) -> PipelineML:
        return self._keep(super().only_nodes_with_tags(*tags))

    def from_inputs(self, *inputs: str) -> PipelineML:
        return self._keep(super().from_inputs(*inputs))

    def to_outputs(self, *outputs: str) -> PipelineML:
        return self._keep(super().to_outputs(*outputs))

    def from_nodes(self, *node_names: str) -> PipelineML:
        return self._keep(super().from_nodes(*node_names))

    def to_nodes(self, *node_names: str) -> PipelineML:
        return self._keep(super().to_nodes(*node_names))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PipelineML):
            return NotImplemented
        return (
            set(self._plain_nodes) == set(other._plain_nodes)
            and len(self._bindings) == len(other._bindings)
            and all(a.serves_like(b) for a, b in zip(self._bindings, other._bindings, strict=True))
        )

    def __hash__(self) -> int:
        return hash((frozenset(self._plain_nodes), tuple(each.input_name for each in self._bindings)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self)._make, (self._plain_nodes, self._bindings))

    def __repr__(self) -> str:
        nodes = ",\n".join(repr(node) for node in self.training.nodes)
        inputs = ", ".join(repr(each.input_name) for each in self._bindings)
        return f"PipelineML([\n{nodes}\n], input_name={inputs})"


def pipeline_ml_factory(
    training: Pipeline,
    inference: Pipeline,
    input_name: str | Sequence[str],
    *,
    kpm_kwargs: Mapping[str, Any] | None = None,
    log_model_kwargs: Mapping[str, Any] | None = None,
) -> PipelineML:
    """Bind an inference pipeline to the training pipeline that makes its artifacts.

    Args:
        training: what ``kedro run`` runs.
        inference: what is served; its inputs are ``input_name``, parameters, and datasets of ``training``.
        input_name: the inference input that a request brings, usually one row a prediction; or a list of several.
        kpm_kwargs: ``copy_mode`` ("assign", "copy", "deepcopy", or ``{dataset: mode}``), ``runner`` and ``hooks``.
        log_model_kwargs: arguments of ``mlflow.pyfunc.log_model``: ``name`` (default "model"), ``signature``,
            ``input_example``, ``conda_env``, ``pip_requirements``, ``code_paths``, ``registered_model_name``, …

    Raises PipelineMLError with every reason why the two do not fit.
    """
    from kbuild.training.one_line import one_line_errors

    # Projects call this while Kedro's command line registers their pipelines.
    with one_line_errors():
        for name, given in (("training", training), ("inference", inference)):
            if not isinstance(given, Pipeline):
                raise PipelineMLError(
                    f"the {name} pipeline is a {type(given).__name__}, {given!r:.60}, not a Kedro pipeline",
                    hint="pipeline_ml_factory takes training, inference and the name of inference's input, in this "
                    "order",
                )
        if not isinstance(input_name, str | list | tuple):
            raise PipelineMLError(
                f"input_name is a {type(input_name).__name__}, not the name of a dataset or a list of names"
            )
        if inference.nodes and set(_plain(training)) == set(_plain(inference)):
            raise PipelineMLError(
                "the training pipeline is bound to itself: training and inference have the same nodes",
                hint="give the pipeline that is served as the second argument",
            )
        return PipelineML(
            training,
            inference=inference,
            input_name=input_name,
            kpm_kwargs=kpm_kwargs,
            log_model_kwargs=log_model_kwargs,
        )


def find_lost_nodes(pipeline: Pipeline) -> list[str]:
    """Names of the training nodes in ``pipeline`` that lost their inference pipeline on the way, sorted.

    They are those of a PipelineML that was wrapped by ``Pipeline(…)`` or ``pipeline(…)``, with a namespace or without.
    """
    owned = frozenset[str]().union(*(each.training_names for each in _bindings(pipeline)))
    return sorted(node.name for node in pipeline.nodes if TRAINING_TAG in node.tags and node.name not in owned)


def refuse_lost(pipeline: Pipeline) -> PipelineMLError | None:
    """What to say of such nodes, None where there are none."""
    if not (lost := find_lost_nodes(pipeline)):
        return None
    return PipelineMLError(
        f"the training nodes {', '.join(lost)} run without their inference pipeline, so no model could be logged",
        hint="wrap training and inference with Pipeline() or pipeline() first, "
        "and call pipeline_ml_factory() on the results",
    )


def _plain(pipeline: Pipeline) -> list[Node]:
    return pipeline._plain_nodes if isinstance(pipeline, PipelineML) else list(pipeline.nodes)


def _bindings(pipeline: Pipeline) -> tuple[Binding, ...]:
    return pipeline._bindings if isinstance(pipeline, PipelineML) else ()
