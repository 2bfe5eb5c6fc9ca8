"""The inference pipeline run by Kedro's own runner, which calls Kedro's dataset and node hooks, and takes longer.

Only models that chose a runner import this, and with it Kedro.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from kbuild.served.calls import CopyMode

# Kedro copies with ``.copy()`` where told to, which not every value has; what it does by itself copies them all.
_MODES = {"assign": "assign", "copy": None, "deepcopy": "deepcopy"}


class KedroRun:
    """What ``plan.Plan`` is, by ``kedro.runner.SequentialRunner``; may run in many threads at once.

    ``hooks`` are objects with methods marked as Kedro's hooks; those of datasets and nodes are called.
    """

    def __init__(
        self, nodes: Iterable[Node], hooks: Iterable[Any], *, outputs: Iterable[str], copy_mode: CopyMode
    ) -> None:
        self._pipeline = Pipeline(list(nodes))
        self._outputs = tuple(outputs)
        names = self._pipeline.datasets()
        chosen = copy_mode if isinstance(copy_mode, Mapping) else dict.fromkeys(names, copy_mode)
        self._modes = {name: _MODES[chosen.get(name, "assign")] for name in sorted(names)}
        self._hooks = _create_hook_manager()
        _register_hooks(self._hooks, hooks)
        self._runner = _import_runner()

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The wanted outputs by name, from a value for every input, in a catalog of this call's own.

        An exception of a node passes through. Raises what Kedro raises of nodes that give other outputs than declared.
        """
        datasets = {
            name: MemoryDataset(values[name], copy_mode=mode) if name in values else MemoryDataset(copy_mode=mode)
            for name, mode in self._modes.items()
        }
        self._runner().run(self._pipeline, DataCatalog(datasets), self._hooks)
        return {name: datasets[name].load() for name in self._outputs}


def _import_runner() -> Any:
    """Kedro's class. Importing it configures all logging as on a project's command line; here that stays as it is."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.INFO)
    try:
        from kedro.runner import SequentialRunner
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
    return SequentialRunner
