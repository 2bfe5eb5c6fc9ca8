"""What other hooks of a project do to data on its way to nodes: a served model runs without them."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from kbuild.hooks.look_ahead import look_at_input
from kbuild.served.calls import is_parameter
from kbuild.training.plugins import BEFORE_LOADING, find_foreign, is_foreign
from kbuild.training.value_digest import find_digest

if TYPE_CHECKING:
    from kbuild.hooks.under_way import Training

_SPECS = ("after_dataset_loaded", "before_node_run", "after_node_run", "before_dataset_saved", "after_dataset_saved")
_logger = logging.getLogger(__name__)
# Those that come between the catalog and a node.
_GIVING = frozenset({"after_dataset_loaded", "before_node_run"})


class Onlooker:
    """The hooks that only see what others change of data that inference reads too.

    Wrappers, and the outermost: what other hooks do lies between.
    """

    _training: Training | None
    _others: frozenset[str]

    @hook_impl(wrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> Generator[None, Any, Any]:
        """See what other hooks change of data that inference reads too, and whether a request could bring it."""
        look_at_input(self._training, dataset_name, data)
        with watching(self._training, self._others, "after_dataset_loaded", {dataset_name: data}):
            return (yield)

    @hook_impl(wrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
    def after_node_run(self, outputs: dict[str, Any]) -> Generator[None, Any, Any]:
        """See what other hooks change of what a node made."""
        with watching(self._training, self._others, "after_node_run", outputs):
            return (yield)

    @hook_impl(wrapper=True, tryfirst=True)  # type: ignore[untyped-decorator]
    def before_dataset_saved(self, dataset_name: str, data: Any) -> Generator[None, Any, Any]:
        """See what other hooks change before it is saved."""
        with watching(self._training, self._others, "before_dataset_saved", {dataset_name: data}):
            return (yield)


class Probe:
    """A hook for a run of the inference pipeline that is nobody's: the hooks of others are asked there what they would
    give its nodes, and nothing of it is taken. ``given`` are the datasets of which that is another value.

    ``artifacts`` are too large to be copied, so what is changed in these is not seen, but what is given instead.
    """

    def __init__(self, manager: Any) -> None:
        found = [] if manager is None else manager.hook.before_node_run.get_hookimpls()
        self._asked = [
            each for each in found if is_foreign(each.plugin) and not inspect.isgeneratorfunction(each.function)
        ]
        self.artifacts: frozenset[str] = frozenset()
        self.given: set[str] = set()

    @hook_impl  # type: ignore[untyped-decorator]
    def before_node_run(self, node: Any, catalog: Any, inputs: dict[str, Any], is_async: bool, run_id: str) -> None:
        """Ask, with copies: hooks may also change what they are shown."""
        from kbuild.recording.input.reads import plain  # which needs pandas

        for each in self._asked:
            try:
                # What hooks look at of a table is not what the pipeline reads of it.
                own = {name: plain(value) for name, value in inputs.items()}
                shown = {name: value if name in self.artifacts else copy.deepcopy(value) for name, value in own.items()}
                words = {"node": node, "catalog": catalog, "inputs": shown, "is_async": is_async, "run_id": run_id}
                given = each.function(*(words[name] for name in each.argnames))
            except Exception as error:  # noqa: BLE001  of anybody's, made for the runs of a session
                _logger.info("A hook of %s fails in a run of inference: %s", each.plugin_name, error)
                continue
            shown |= given if isinstance(given, dict) else {}
            self.given |= {name for name in own if _is_other_value(shown.get(name), own[name])}


def _is_other_value(shown: Any, known: Any) -> bool:
    return shown is not known and find_digest(shown) != find_digest(known)


def find_others(manager: Any) -> frozenset[str]:
    """Of the hooks before data is loaded, and that see it on its way, those that somebody else has a say in."""
    return find_foreign(manager, (BEFORE_LOADING, *_SPECS))


@contextmanager
def watching(training: Training | None, others: frozenset[str], spec: str, values: Mapping[str, Any]) -> Iterator[None]:
    """Note which of these values that inference reads too are others afterwards, by the hooks of ``find_others``.

    What does not say what it holds is not seen.
    """
    if training is None or training.planned is None or spec not in others:
        yield
        return
    binding = training.planned.binding
    names = {*binding.inference.datasets(), *binding.input_names}
    if spec in _GIVING:
        training.watched |= names.intersection(values)
    seen = {name: find_digest(value) for name, value in values.items() if name in names}
    yield
    told = {name: digest for name, digest in seen.items() if digest is not None}
    training.changed |= {name for name, digest in told.items() if find_digest(values[name]) != digest}


def find_unwatched(training: Training, others: frozenset[str]) -> set[str]:
    """The inference pipeline's inputs that no node of this run was given, where others may change what nodes get."""
    if training.planned is None or others.isdisjoint(_GIVING) or not training.ran:  # nodes of other processes, say
        return set()
    return {name for name in training.planned.binding.inference.inputs() if not is_parameter(name)} - training.watched


def tell_probed(given: Iterable[str]) -> Iterator[str]:
    """What a ``Probe`` found, as lines for the user."""
    if names := sorted(given):
        yield (
            f"hooks would give nodes of the inference pipeline other values of {', '.join(names)}: a served model runs "
            "without hooks, so let a node do that"
        )


def tell_others(given: Iterable[str], changed: Iterable[str], unwatched: Iterable[str] = ()) -> Iterator[str]:
    """Lines for the user."""
    if names := sorted(given):
        yield (
            f"hooks gave nodes other values of {', '.join(names)} than the catalog has: a served model runs without "
            "hooks"
        )
    if names := sorted(changed):
        yield (
            f"hooks changed {', '.join(names)} before nodes got it: a served model runs without hooks, so let a node "
            "of training and of inference do that"
        )
    if names := sorted(unwatched):
        yield (
            f"no node of this run read {', '.join(names)}, so whether hooks change that is not known: a served model "
            "runs without hooks"
        )
