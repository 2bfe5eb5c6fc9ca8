"""Whose hooks a run of Kedro calls besides kbuild's own."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

BEFORE_LOADING = "before_dataset_loaded"
"""Whoever is called then may bring the very file that is loaded."""
# Whose hooks are known to leave data as it is.
_HARMLESS = ("kbuild", "kedro", "kedro_mlflow", "kedro_telemetry", "kedro_viz")


def find_foreign(manager: Any, specs: Iterable[str]) -> frozenset[str]:
    """Those of the hook specifications ``specs`` that somebody else has a say in; ``manager`` is pluggy's, or None."""
    if manager is None:
        return frozenset()
    return frozenset(
        spec for spec in specs if any(is_foreign(each.plugin) for each in getattr(manager.hook, spec).get_hookimpls())
    )


def is_foreign(plugin: Any) -> bool:
    """Whether it is none of kbuild, Kedro and others that are known."""
    module = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
    return module.partition(".")[0] not in _HARMLESS
