"""Which nodes change what they are given: the check while a model is recorded.

A served model loads its artifacts once and shows them to all requests, and hands a dataset from node to node as it is.
A node that changes such a value changes the answers of others. ``copy_mode`` gives nodes copies, where that is meant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from kbuild.recording.input.reads import Reads, observe, plain
from kbuild.served.calls import CopyMode, Plan, Step, flat_names, is_parameter, spread_outputs
from kbuild.training.value_digest import find_digest

if TYPE_CHECKING:
    from kbuild.served.pipeline import ServedPipeline

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Mutation:
    """``node`` changed ``dataset``; ``shared`` where that is an artifact that all requests share."""

    node: str
    dataset: str
    shared: bool


class WatchedPlan:
    """A plan that answers as ``Plan`` does, and notes what nodes did to values that others see too.

    A value that does not say what it holds is not watched; ``unwatched`` names those of the artifacts.
    """

    def __init__(
        self, steps: Iterable[Step], *, inputs: Iterable[str], outputs: Iterable[str], copy_mode: CopyMode, given: str
    ) -> None:
        steps = list(steps)
        self._watch = _Watch(steps, given, outputs)
        self._given = given
        self.observes = True
        # What the last run read of its input, where that is a table.
        self.reads: Reads | None = None
        self._plan = Plan(map(self._watch.wrap, steps), inputs=inputs, outputs=outputs, copy_mode=copy_mode)

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Plan.run``. Where it ``observes``, nodes get a table that notes which of its columns they read."""
        self.reads = None
        if self.observes and type(values[self._given]) is pd.DataFrame:
            observed, self.reads = observe(values[self._given])
            values = {**values, self._given: observed}
        self._watch.values = dict(values)
        outputs = self._plan.run(values)
        if self.reads is not None and any(plain(each) is not each for each in outputs.values()):
            # The input itself is the answer, or the rest of it.
            self.reads.everything = True
        return {name: plain(each) for name, each in outputs.items()}

    @property
    def changes(self) -> tuple[Mutation, ...]:
        """What was changed so far."""
        return tuple(sorted(self._watch.found))

    @property
    def unwatched(self) -> tuple[str, ...]:
        """Artifacts that were read and did not say what they hold."""
        return tuple(sorted(self._watch.unwatched))


def watch(model: ServedPipeline) -> WatchedPlan | None:
    """Let the model, whose artifacts are loaded, run by a plan that is watched; None where Kedro runs it."""
    if model.runner is not None:
        return None
    made = WatchedPlan(
        model._steps,
        inputs=[model.input_name, *model.sources],
        outputs=model.output_names,
        copy_mode=model.copy_mode,
        given=model.input_name,
    )
    model._plan = made  # type: ignore[assignment]
    return made


def warn_of(changes: Iterable[Mutation]) -> None:
    """Tell of nodes that change what others see."""
    for change in changes:
        where = "which all requests share" if change.shared else "which is used again after it"
        _logger.warning(
            "The inference node %r changes %r, %s. Set copy_mode: {%r: 'deepcopy'} in kpm_kwargs, or let the node "
            "work on a copy.", change.node, change.dataset, where, change.dataset,
        )  # fmt: skip


def advise_copies(changes: Iterable[Mutation]) -> str:
    """What to write so that these datasets are no longer changed."""
    names = dict.fromkeys(change.dataset for change in changes)
    modes = ", ".join(f"{name!r}: 'deepcopy'" for name in names)
    return f"set kpm_kwargs={{'copy_mode': {{{modes}}}}}, or let the nodes work on copies"


class _Watch:
    def __init__(self, steps: list[Step], input_name: str, outputs: Iterable[str]) -> None:
        self.values: dict[str, Any] = {}
        self.found: set[Mutation] = set()
        self.unwatched: set[str] = set()
        made = {name for step in steps for name in flat_names(step.outputs)}
        names = {name for step in steps for name in flat_names(step.inputs)}
        self._artifacts = {name for name in names - made - {input_name} if not is_parameter(name)}
        self._outputs = set(outputs)
        self._last_use = {name: place for place, step in enumerate(steps) for name in flat_names(step.inputs)}
        self._places = {step.name: place for place, step in enumerate(steps)}

    def wrap(self, step: Step) -> Step:
        """The same step, looking at the values it is given before and after."""
        place = self._places[step.name]
        seen_by_others = [name for name in dict.fromkeys(flat_names(step.inputs)) if self._is_seen(name, place)]
        return replace(step, func=self._make(step, seen_by_others))

    def _is_seen(self, name: str, place: int) -> bool:
        return name in self._artifacts or name in self._outputs or self._last_use[name] > place

    def _make(self, step: Step, names: list[str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = {name: _digest(self.values[name]) for name in names}
            self.unwatched |= {name for name, digest in before.items() if digest is None and name in self._artifacts}
            result = step.func(*args, **kwargs)
            for name, digest in before.items():
                if digest is not None and _digest(self.values[name]) != digest:
                    self.found.add(Mutation(node=step.name, dataset=name, shared=name in self._artifacts))
            names_made = flat_names(step.outputs)
            self.values.update(zip(names_made, spread_outputs(step.name, step.outputs, result), strict=True))
            return result

        return call


def _digest(value: Any) -> bytes | None:
    return find_digest(plain(value))
