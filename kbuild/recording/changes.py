"""Which nodes change what they are given: the check while a model is recorded.

A served model loads its artifacts once and shows them to all requests, and hands a dataset from node to node as it is.
A node that changes such a value changes the answers of others. ``copy_mode`` gives nodes copies, where that is meant.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kbuild.answers import DEFAULT, Tolerance, compare_texts
from kbuild.errors import RecordingError
from kbuild.served.calls import CopyMode, Plan, Step, flat_names, is_parameter, spread_outputs
from kbuild.served.inputs import load_input
from kbuild.training.value_digest import NoDigest, digest_value

if TYPE_CHECKING:
    from kbuild.served.pipeline import ServedPipeline

_logger = logging.getLogger(__name__)
_DEEP = "deepcopy"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Change:
    """``node`` changed ``dataset``; ``shared`` where that is an artifact that all requests share."""

    node: str
    dataset: str
    shared: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The changes of two runs, and whether the second answered as the first."""

    changes: tuple[Change, ...]
    same_answer: bool


def find_changes(
    steps: Iterable[Step],
    values: Mapping[str, Any],
    *,
    input_name: str,
    outputs: Iterable[str],
    copy_mode: CopyMode = "assign",
    tolerance: Tolerance = DEFAULT,
) -> Found:
    """Run the steps twice on the same input and see what nodes did to values that others see too.

    ``values`` are all inputs by name; they may be changed. A value that does not say what it holds is not watched.
    Raises what the nodes raise.
    """
    steps, outputs = list(steps), list(outputs)
    watch = _Watch(steps, input_name, outputs)
    plan = Plan(map(watch.wrap, steps), inputs=list(values), outputs=outputs, copy_mode=copy_mode)
    answers = []
    for _ in range(2):
        # A request's input and parameters are its own.
        own = {
            name: copy.deepcopy(value) if name == input_name or is_parameter(name) else value
            for name, value in values.items()
        }
        watch.values = dict(own)
        answers.append([_Answer(value) for value in plan.run(own).values()])
    same = all(first.is_same(second, tolerance) for first, second in zip(*answers, strict=True))
    return Found(changes=tuple(sorted(watch.found)), same_answer=same)


def check_changes(
    model: ServedPipeline, artifacts: Mapping[str, str], input_example: Any, tolerance: Tolerance = DEFAULT
) -> None:
    """Warn of nodes that change what others see; raises RecordingError where that changes the next answer."""
    data = input_example[0] if isinstance(input_example, tuple) else input_example
    if data is None:
        return
    # Values of their own, since the model's have been seen by a prediction already.
    values = {name: load_input(name, source, artifacts[name]) for name, source in model.sources.items()}
    try:
        found = find_changes(
            model._steps,
            {**values, model.input_name: data},
            input_name=model.input_name,
            outputs=model.output_names,
            copy_mode=model.copy_mode,
            tolerance=tolerance,
        )
    except Exception:  # noqa: BLE001  the saved model is asked the same next, as MLflow hands it on, and told of
        return
    for change in found.changes:
        where = "which all requests share" if change.shared else "which is used again after it"
        _logger.warning(
            "The inference node %r changes %r, %s. Set copy_mode: {%r: 'deepcopy'} in kpm_kwargs, or let the node "
            "work on a copy.", change.node, change.dataset, where, change.dataset,
        )  # fmt: skip
    shared = sorted({change.dataset for change in found.changes if change.shared})
    if shared and not found.same_answer:
        raise RecordingError(
            f"a prediction changes the next one: the inference pipeline changes {', '.join(shared)}",
            hint=f"set kpm_kwargs={{'copy_mode': {{{', '.join(f'{name!r}: {_DEEP!r}' for name in shared)}}}}}, "
            "or let the nodes work on copies",
        )


class _Answer:
    """One output as it is now: a later run may change the object."""

    def __init__(self, value: Any) -> None:
        from mlflow.pyfunc.scoring_server import predictions_to_json

        text = io.StringIO()
        try:
            predictions_to_json(value, text)
        except Exception:  # noqa: BLE001  what cannot be served is compared by its pickle, and refused next
            self._text, self._digest = None, _digest(value)
        else:
            self._text, self._digest = text.getvalue(), None

    def is_same(self, other: _Answer, tolerance: Tolerance) -> bool:
        if self._text is None or other._text is None:
            return (self._text, self._digest) == (other._text, other._digest)
        return compare_texts(self._text, other._text, tolerance).same


class _Watch:
    def __init__(self, steps: list[Step], input_name: str, outputs: list[str]) -> None:
        self.values: dict[str, Any] = {}
        self.found: set[Change] = set()
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
            result = step.func(*args, **kwargs)
            for name, digest in before.items():
                if digest is not None and _digest(self.values[name]) != digest:
                    self.found.add(Change(node=step.name, dataset=name, shared=name in self._artifacts))
            names_made = flat_names(step.outputs)
            self.values.update(zip(names_made, spread_outputs(step.name, step.outputs, result), strict=True))
            return result

        return call


def _digest(value: Any) -> bytes | None:
    """Of what the value holds; None where that cannot be told."""
    try:
        return digest_value(value)
    except NoDigest:
        return None
