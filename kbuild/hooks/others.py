"""What other hooks of a project do to data on its way to nodes: a served model runs without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kbuild.training.value_digest import NoDigest, digest_value

if TYPE_CHECKING:
    from kbuild.hooks.under_way import Training

# Whose hooks are known to leave data as it is.
_HARMLESS = ("kbuild", "kedro", "kedro_mlflow", "kedro_telemetry", "kedro_viz")
_SPECS = ("after_dataset_loaded", "before_node_run")


def find_others(manager: Any) -> frozenset[str]:
    """Of the hooks that see data before a node does, those that somebody else has a say in."""
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
    seen = {name: _digest(value) for name, value in values.items() if name in names}
    yield
    training.changed |= {name for name, known in seen.items() if known is not None and _digest(values[name]) != known}


def _digest(value: Any) -> bytes | None:
    try:
        return digest_value(value)
    except NoDigest:
        return None


def tell_others(given: Iterable[str], changed: Iterable[str]) -> Iterator[str]:
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
