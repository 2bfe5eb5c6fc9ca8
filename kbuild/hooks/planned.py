"""What of a pipeline a run will really run, what a runner drops that its model needs, and what it logs itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from kbuild.training.binding import Binding
    from kbuild.training.pipeline_ml import PipelineML


def find_pipeline_ml(pipeline: Pipeline) -> PipelineML | None:
    """The pipeline if it is a PipelineML that trains; raises PipelineMLError when one was lost on the way."""
    from kbuild.training.pipeline_ml import PipelineML, refuse_lost

    if (error := refuse_lost(pipeline)) is not None:
        raise error
    return pipeline if isinstance(pipeline, PipelineML) and pipeline.trains else None


def leave_out_existing(pipeline: PipelineML, catalog: Any) -> PipelineML:
    """The part that ``kedro run --only-missing-outputs`` runs: the runner leaves the rest out, after the hooks."""
    from kedro.runner import SequentialRunner

    # Asked of Kedro itself, quietly: it says the same again when it runs. Public names for this there are none.
    runner = SequentialRunner()
    talk, runner._logger.disabled = runner._logger.disabled, True
    try:
        return pipeline.only_nodes(*(node.name for node in _filter(runner, pipeline, catalog)))
    finally:
        runner._logger.disabled = talk


def _filter(runner: Any, pipeline: Pipeline, catalog: Any) -> list[Node]:
    nodes: list[Node] = runner._filter_pipeline_for_missing_outputs(pipeline, catalog).nodes
    return nodes


def find_released(binding: Binding, training: Pipeline, catalog: Any) -> frozenset[str]:
    """Inference inputs that training makes in memory: a runner drops them after their last use."""
    from kbuild.training.described import find_dataset, is_in_memory

    made = {*binding.inference.inputs(), *binding.input_names} & training.all_outputs()
    datasets = {name: find_dataset(name, catalog) for name in made}
    return frozenset(name for name, each in datasets.items() if each is None or is_in_memory(each))


def find_tracking_outputs(pipeline: Pipeline, catalog: Any) -> bool:
    """Whether a pipeline saves to metrics or artifacts of a run."""
    from kbuild.datasets.tracked import find_tracked

    return any(True for _ in find_tracked(pipeline.all_outputs(), catalog))


def attach(pipeline: Pipeline, catalog: Any, run_id: str | None, *, off: bool = False) -> None:
    """Tell them the run under way, None for the active one; ``off`` has them log nothing."""
    from kbuild.datasets.tracked import attach_all

    attach_all(pipeline.datasets(), catalog, run_id, off=off)


def lend(pipeline: Pipeline, catalog: Any) -> Callable[[], None]:
    """Tell them the active run of somebody else, which processes of a parallel runner do not have; undone by a call."""
    from kbuild.datasets.stores import get_active_run

    active = get_active_run()
    attach(pipeline, catalog, None if active is None else str(active.info.run_id))
    return partial(attach, pipeline, catalog, None)


def get_project_path(run_params: dict[str, Any]) -> Path:
    return Path(run_params.get("project_path") or Path.cwd())


def get_package_name() -> str | None:
    from kedro.framework import project

    name: str | None = project.PACKAGE_NAME
    return name
