"""A run whose children were trained: which of them have models, and the best of them by a metric.

MLflow tells a child by the tag ``mlflow.parentRunId`` (docs: "Parent and Child Runs"); children may have children.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kbuild.errors import ModelNotFound, RunWithoutModel
from kbuild.process.asking import asking_pool
from kbuild.progress import at_most

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_DEEPEST = 4
_AT_ONCE = 8
_SHOWN = 10
_LONGEST_NAME = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The child run that was taken, with its value, of how many; ``left_out`` says how many were not compared, why."""

    run_id: str
    name: str
    value: float
    compared: int
    left_out: tuple[str, ...]


def find_children(client: MlflowClient, parent: Run) -> list[Run]:
    """The child runs that were not deleted, oldest first; below those that logged nothing, their own."""
    found: dict[str, Run] = {}
    level = [parent]
    for _ in range(_DEEPEST):
        below = [child for run in level for child in _search(client, run) if child.info.run_id not in found]
        found |= {child.info.run_id: child for child in below}
        level = [child for child in below if not (child.outputs and child.outputs.model_outputs)]
    found.pop(parent.info.run_id, None)
    return list(found.values())


def with_models(runs: Sequence[Run], has_model: Callable[[Run], bool]) -> list[Run]:
    """Those of the runs that have a model."""
    with asking_pool(_AT_ONCE) as pool:
        return [run for run, has in zip(runs, pool.map(has_model, runs), strict=True) if has]


def make_choice(parent_id: str, children: Sequence[Run]) -> RunWithoutModel:
    """The error for a run without a model of its own, where children have some."""
    names = at_most([f"{run.info.run_id} ({name_of(run)})" for run in children], _SHOWN)
    runs = "1 of its child runs has one" if len(children) == 1 else f"{len(children)} of its child runs have one"
    return RunWithoutModel(
        f"run {parent_id} logged no model, but {runs}: {names}",
        hint=f"kbuild image {children[0].info.run_id}"
        + ("" if len(children) == 1 else f", or kbuild image {parent_id} --best METRIC (METRIC:min for the lowest)"),
    )


def find_best(
    client: MlflowClient, parent: Run, metric: str, has_model: Callable[[Run], bool], *, lowest: bool = False
) -> Best:
    """The finished child run with the best last value of the metric that has a model; of equals the oldest.

    Raises RunWithoutModel where no child is left to compare, ModelNotFound where none has the metric.
    """
    parent_id = parent.info.run_id
    children = find_children(client, parent)
    if not children:
        raise RunWithoutModel(f"run {parent_id} has no child runs to take the best of")
    finished = [run for run in children if run.info.status == "FINISHED"]
    measured = [run for run in finished if metric in run.data.metrics]
    if finished and not measured:
        known = sorted({name for run in finished for name in run.data.metrics})
        listed = ", ".join(known[:_SHOWN]) or "none"
        raise ModelNotFound(f"no child run of {parent_id} has the metric {metric!r}", hint=f"they have: {listed}")
    comparable = [run for run in measured if _is_number(run.data.metrics[metric])]
    candidates = with_models(comparable, has_model)
    reasons = {
        "not finished": len(children) - len(finished),
        f"without {metric}": len(finished) - len(measured),
        f"whose {metric} is not a number": len(measured) - len(comparable),
        "without a model": len(comparable) - len(candidates),
    }
    left_out = tuple(f"{number} {reason}" for reason, number in reasons.items() if number)
    if not candidates:
        raise RunWithoutModel(
            f"none of the {len(children)} child runs of {parent_id} can be taken by {metric}: {', '.join(left_out)}"
        )
    sign = 1 if lowest else -1
    best = min(candidates, key=lambda run: (sign * run.data.metrics[metric], run.info.start_time, run.info.run_id))
    return Best(
        run_id=best.info.run_id,
        name=name_of(best),
        value=best.data.metrics[metric],
        compared=len(candidates),
        left_out=left_out,
    )


def name_of(run: Run) -> str:
    """The run's name, shortened, in one line."""
    return short_name(str(run.info.run_name or ""))


def short_name(text: str) -> str:
    """A run's name, shortened, in one line."""
    name = " ".join(text.split()) or "no name"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _search(client: MlflowClient, parent: Run) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [parent.info.experiment_id],
            filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            max_results=1000,
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            return found


def _is_number(value: float) -> bool:
    # MLflow's databases keep infinity as the largest number there is.
    return not math.isnan(value) and abs(value) < sys.float_info.max
