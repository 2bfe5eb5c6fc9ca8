"""The pipeline's own answer: Kedro's runner runs the inference pipeline, its inputs as the catalog loads them.

What the nodes make in between stays in memory, and nothing that the catalog keeps is written.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks
from kedro.io import AbstractDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline

from kbuild.served.calls import CopyMode, is_parameter
from kbuild.served.runner import _import_runner
from kbuild.training.described import find_dataset, is_in_memory


class OwnRun:
    """What ``kbuild.served.calls.Plan`` is, by Kedro: as ``kedro run`` of the inference pipeline would go.

    ``copy_mode`` is the user's, None where they chose none: Kedro then copies what is in memory, as it does by itself.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        catalog: Any,
        *,
        in_memory: Iterable[str],
        hooks: Iterable[Any] = (),
        copy_mode: CopyMode | None = None,
    ) -> None:
        self._pipeline = Pipeline(list(pipeline.nodes))
        self._catalog = catalog
        self._in_memory = set(in_memory)
        self._chosen = copy_mode
        self._hooks = _create_hook_manager()
        _register_hooks(self._hooks, (*hooks, _NameNode()))
        self._uses = Counter(name for node in pipeline.nodes for name in node.inputs)

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name. ``values`` are of the inputs, fresh from the catalog: nodes may change them.

        Raises what the nodes raise, with a note that names the node, and what Kedro raises of them.
        """
        names = sorted(self._pipeline.datasets())
        datasets = {
            name: self._give(name, values[name]) if name in values else MemoryDataset(copy_mode=self._mode(name))
            for name in names
        }
        runner = _import_runner()
        with _silent():
            runner().run(self._pipeline, DataCatalog(datasets), self._hooks)
        return {name: datasets[name].load() for name in sorted(self._pipeline.outputs())}

    def _give(self, name: str, value: Any) -> Any:
        dataset: Any = find_dataset(name, self._catalog)
        kept = dataset is None or name in self._in_memory or is_parameter(name) or is_in_memory(dataset)
        mode = self._mode(name) if kept else None
        return _Given(value, self._uses[name], again=None if kept else dataset.load, shared=mode == "assign")

    def _mode(self, name: str) -> str | None:
        dataset = find_dataset(name, self._catalog)
        if dataset is not None and is_in_memory(dataset) and getattr(dataset, "_copy_mode", None):
            return str(dataset._copy_mode)
        chosen = self._chosen.get(name) if isinstance(self._chosen, Mapping) else self._chosen
        return str(chosen) if chosen else None


class _Given(AbstractDataset[Any, Any]):  # type: ignore[misc]
    """A value that is loaded already, and is not held twice: its last reader gets the value itself.

    Readers before get a copy, or what ``again`` loads; all get the same where it is ``shared``.
    """

    def __init__(self, value: Any, uses: int, *, again: Callable[[], Any] | None, shared: bool) -> None:
        self._held = [value]
        self._left = uses
        self._again = again
        self._shared = shared

    def load(self) -> Any:
        """The value, as Kedro's datasets give it to each node."""
        self._left -= 1
        if self._shared or self._left < 1:
            return self._held[0]
        return copy.deepcopy(self._held[0]) if self._again is None else self._again()

    def save(self, data: Any) -> None:
        """Inputs are not saved."""
        raise NotImplementedError

    def _exists(self) -> bool:
        return True

    def _release(self) -> None:
        self._held.clear()

    def _describe(self) -> dict[str, Any]:
        return {}


class _NameNode:
    @hook_impl  # type: ignore[untyped-decorator]
    def on_node_error(self, error: Exception, node: Any) -> None:
        """Say which node it was, as a served model does."""
        error.add_note(f"in the inference node {node.name!r}")


@contextmanager
def _silent() -> Iterator[None]:
    """Without Kedro's own lines: the training run has ended, and these would read as another one."""
    logger = logging.getLogger("kedro")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
