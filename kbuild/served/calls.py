"""The inference pipeline compiled once to straight-line calls over local slots.

A request then costs the nodes' functions and a list: no runner, no catalog, no hooks, nothing shared between threads.
Imports nothing of Kedro, since it runs in the served model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kbuild.errors import PipelineMLError, PredictionError

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

Names = str | list[str] | dict[str, str] | None
CopyMode = str | Mapping[str, str]
COPY_MODES = ("assign", "copy", "deepcopy")


def is_parameter(name: str) -> bool:
    """Whether a dataset name is one of Kedro's parameters: ``parameters`` or ``params:…``."""
    return name == "parameters" or name.startswith("params:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One node: its function, and names bound as Kedro binds them (one, by position, by keyword, or none)."""

    name: str
    func: Callable[..., Any]
    inputs: Names
    outputs: Names


def make_steps(pipeline: Pipeline) -> list[Step]:
    """The nodes of a Kedro pipeline in an order that can be run.

    Raises PipelineMLError for nodes that cannot be called straight: generators, coroutines, and data saved under one
    transcoded name and loaded under another, which only a file in between can do.
    """
    made: dict[str, str] = {}
    steps = []
    for node in pipeline.nodes:
        if inspect.isgeneratorfunction(node.func):
            raise PipelineMLError(
                f"inference node {node.name!r} is a generator, which cannot answer a request: let it return a list"
            )
        if inspect.iscoroutinefunction(node.func):
            raise PipelineMLError(
                f"inference node {node.name!r} is async, and Kedro awaits no node: write def, not async"
            )
        for name in node.inputs:
            maker = made.get(name.partition("@")[0], name)
            if maker != name:
                raise PipelineMLError(f"inference node {node.name!r} reads {name!r} but it is written as {maker!r}")
        made |= {name.partition("@")[0]: name for name in node.outputs}
        # What takes a dict of several inputs apart copies it, by a name of which an audit knows that it makes data.
        func = dict if node.func is copy.copy and isinstance(node._outputs, dict) else node.func
        # Kedro keeps how a node binds its names in these two attributes only.
        steps.append(Step(name=node.name, func=func, inputs=node._inputs, outputs=node._outputs))
    return steps


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    name: str
    func: Callable[..., Any]
    args: tuple[int, ...]
    kwargs: tuple[tuple[str, int], ...]
    spread: Names
    targets: tuple[int, ...]
    finished: tuple[int, ...]


class Plan:
    """Steps compiled for given inputs and wanted outputs; may run in many threads at once.

    Raises PipelineMLError for an unknown copy mode.
    """

    def __init__(
        self, steps: Iterable[Step], *, inputs: Iterable[str], outputs: Iterable[str], copy_mode: CopyMode = "assign"
    ) -> None:
        steps = list(steps)
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        slots: dict[str, int] = {}
        for name in (
            *self._inputs,
            *(name for step in steps for name in (*flat_names(step.inputs), *flat_names(step.outputs))),
        ):
            slots.setdefault(name, len(slots))
        self._slots = slots
        self._copiers = _make_copiers(slots, copy_mode)
        last_use = {slots[name]: position for position, step in enumerate(steps) for name in flat_names(step.inputs)}
        kept = {slots[name] for name in self._outputs}
        self._calls = [_compile(step, position, slots, last_use, kept) for position, step in enumerate(steps)]

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The wanted outputs by name, from a value for every input.

        An exception of a node passes through, with a note that names the node; SystemExit as a RuntimeError. Raises
        PredictionError when a node gives other outputs than it declares.
        """
        slots: list[Any] = [None] * len(self._slots)
        copiers = self._copiers
        for name in self._inputs:
            slots[self._slots[name]] = values[name]
        for call in self._calls:
            args = [copiers[slot](slots[slot]) for slot in call.args]
            kwargs = {name: copiers[slot](slots[slot]) for name, slot in call.kwargs}
            try:
                result = call.func(*args, **kwargs)
            except Exception as error:
                error.add_note(f"in the inference node {call.name!r}")
                raise
            except SystemExit as error:
                # It would end what serves, or a thread of it, without an answer.
                raise RuntimeError(f"the inference node {call.name!r} called sys.exit({error.code!r})") from error
            del args, kwargs
            for slot, value in zip(call.targets, spread_outputs(call.name, call.spread, result), strict=True):
                slots[slot] = value
            del result
            for slot in call.finished:
                slots[slot] = None
        return {name: slots[self._slots[name]] for name in self._outputs}


def _compile(step: Step, position: int, slots: dict[str, int], last_use: dict[int, int], kept: set[int]) -> _Call:
    targets = tuple(slots[name] for name in flat_names(step.outputs))
    named = step.inputs if isinstance(step.inputs, dict) else {}
    used = {slots[name] for name in flat_names(step.inputs)}
    over = {slot for slot in used if last_use[slot] == position} | {slot for slot in targets if slot not in last_use}
    return _Call(
        name=step.name,
        func=step.func,
        args=() if named else tuple(slots[name] for name in flat_names(step.inputs)),
        kwargs=tuple((keyword, slots[name]) for keyword, name in named.items()),
        spread=step.outputs,
        targets=targets,
        finished=tuple(sorted(over - kept)),
    )


def spread_outputs(name: str, names: Names, result: Any) -> Iterable[Any]:
    """What the node ``name`` gave, in the order of its outputs ``names``; raises PredictionError for anything else."""
    if names is None:
        return ()
    if isinstance(names, str):
        return (result,)
    if isinstance(names, dict):
        if not isinstance(result, dict) or set(result) != set(names):
            raise PredictionError(f"node {name!r} must give a dict of {', '.join(names)}")
        return [result[key] for key in names]
    if not isinstance(result, list | tuple) or len(result) != len(names):
        raise PredictionError(f"node {name!r} must give {len(names)} values: {', '.join(names)}")
    return result


def flat_names(names: Names) -> list[str]:
    """The dataset names of a node's inputs or outputs, in the node's order."""
    if names is None:
        return []
    if isinstance(names, str):
        return [names]
    return list(names.values()) if isinstance(names, dict) else list(names)


def _make_copiers(slots: Mapping[str, int], copy_mode: CopyMode) -> list[Callable[[Any], Any]]:
    modes = dict(copy_mode) if isinstance(copy_mode, Mapping) else dict.fromkeys(slots, copy_mode)
    wrong = sorted({str(mode) for mode in modes.values() if mode not in COPIERS})
    strangers = sorted(set(modes) - set(slots))
    if wrong:
        raise PipelineMLError(f"unknown copy_mode {', '.join(wrong)}: it is one of {', '.join(COPY_MODES)}")
    if strangers:
        raise PipelineMLError(f"copy_mode names {', '.join(strangers)}, no dataset of the inference pipeline")
    return [COPIERS[modes.get(name, "assign")] for name in slots]


def _assign(value: Any) -> Any:
    return value


def _shallow(value: Any) -> Any:
    # pandas and numpy copy their data with .copy(), which copy.copy() does not do for views.
    return value.copy() if hasattr(value, "copy") else copy.copy(value)


COPIERS: dict[str, Callable[[Any], Any]] = {"assign": _assign, "copy": _shallow, "deepcopy": copy.deepcopy}
