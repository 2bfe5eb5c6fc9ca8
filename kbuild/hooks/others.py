"""What other hooks of a project do to data on its way to nodes: a served model runs without them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from kbuild.served.calls import is_parameter
from kbuild.training.value_digest import NoDigest, digest_value

if TYPE_CHECKING:
    from kbuild.hooks.under_way import Training

# Whose hooks are known to leave data as it is.
_HARMLESS = ("kbuild", "kedro", "kedro_mlflow", "kedro_telemetry", "kedro_viz")
_SPECS = ("after_dataset_loaded", "before_node_run", "after_node_run", "before_dataset_saved", "after_dataset_saved")
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
        """See what other hooks change of data that inference reads too."""
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


def find_others(manager: Any) -> frozenset[str]:
    """Of the hooks that see data on its way from node to node, those that somebody else has a say in."""
    if manager is None:
        return frozenset()
    return frozenset(
        spec for spec in _SPECS if any(_is_other(each.plugin) for each in getattr(manager.hook, spec).get_hookimpls())
    )


def _is_other(plugin: Any) -> bool:
    module = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
    return module.partition(".")[0] not in _HARMLESS


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
    seen = {name: _digest(value) for name, value in values.items() if name in names}
    yield
    training.changed |= {name for name, known in seen.items() if known is not None and _digest(values[name]) != known}


def _digest(value: Any) -> bytes | None:
    try:
        return digest_value(value)
    except NoDigest:
        return None


def find_unwatched(training: Training, others: frozenset[str]) -> set[str]:
    """The inference pipeline's inputs that no node of this run was given, where others may change what nodes get."""
    if training.planned is None or others.isdisjoint(_GIVING) or not training.ran:  # nodes of other processes, say
        return set()
    return {name for name in training.planned.binding.inference.inputs() if not is_parameter(name)} - training.watched


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
