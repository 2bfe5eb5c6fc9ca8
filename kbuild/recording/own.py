"""The pipeline's own answer: Kedro's runner runs the inference pipeline, its inputs as the catalog loads them.

What the nodes make in between goes the way that the catalog has for it, through files of its own that are gone then:
nothing that the catalog keeps is written.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks
from kedro.io import AbstractDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline

from kbuild.recording.input.delivery import find_change
from kbuild.recording.input.reads import Reads, follow, get_reads, plain
from kbuild.served.calls import CopyMode, is_parameter
from kbuild.served.runner import _import_runner
from kbuild.training.described import find_dataset, is_in_memory, is_persisted, remake, uncached
from kbuild.training.entry import EntryValidator, silent_kedro
from kbuild.training.value_digest import digest_value

_logger = logging.getLogger(__name__)


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
        # What came out of the catalog otherwise than a node gave it, by name.
        self.changes: dict[str, str] = {}

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name. ``values`` are of the inputs, fresh from the catalog: nodes may change them.

        Raises what the nodes raise, with a note that names the node, and what Kedro raises of them.
        """
        names = sorted(self._pipeline.datasets())
        with tempfile.TemporaryDirectory(prefix="kbuild-between-") as folder:
            datasets = {
                name: self._give(name, values[name]) if name in values else self._keep(name, Path(folder, str(number)))
                for number, name in enumerate(names)
            }
            runner = _import_runner()
            with silent_kedro():
                runner().run(self._pipeline, DataCatalog(datasets), self._hooks)
            return {name: datasets[name].load() for name in sorted(self._pipeline.outputs())}

    def _give(self, name: str, value: Any) -> Any:
        dataset: Any = find_dataset(name, self._catalog)
        kept = dataset is None or name in self._in_memory or is_parameter(name) or is_in_memory(dataset)
        mode = self._mode(name) if kept else None
        entry = EntryValidator(name, self._catalog)
        again = None if kept else lambda: entry.give(dataset.load())
        return _Given(value, self._uses[name], again=again, shared=mode == "assign")

    def _keep(self, name: str, folder: Path) -> Any:
        """Where the output of a node waits for the next: an answer for nobody but the caller."""
        dataset, entry = find_dataset(name, self._catalog), EntryValidator(name, self._catalog)
        whole: Any = self._catalog.get(name)
        if uncached(whole) is not whole:
            # What a run saves there its nodes get from the cache, and not from the file.
            mode = getattr(getattr(whole, "_cache", None), "_copy_mode", None)
            return _Between(name, entry, None, mode, self.changes) if entry.validates else MemoryDataset(copy_mode=mode)
        # What is loaded anew for each reader is nobody else's, whatever copy mode the served model has.
        lasts = dataset is not None and not is_in_memory(dataset)
        mode = None if lasts else self._mode(name)
        if not self._uses[name] or not (lasts or entry.validates):
            return MemoryDataset(copy_mode=mode)
        own = remake(dataset, folder) if is_persisted(dataset) else None
        return _Between(name, entry, own, mode, self.changes)

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


class _Between(AbstractDataset[Any, Any]):  # type: ignore[misc]
    """What one node saves and others load, through the entry's validator and a file like the catalog's."""

    def __init__(
        self, name: str, entry: EntryValidator, dataset: Any, mode: str | None, changes: dict[str, str]
    ) -> None:
        self._name = name
        self._entry = entry
        self._dataset = MemoryDataset(copy_mode=mode) if dataset is None else dataset
        self._mode = mode
        self._changes = changes
        self._reads: Reads | None = None

    def load(self) -> Any:
        """What the catalog would give."""
        return self._entry.give(follow(self._dataset.load(), self._reads))

    def save(self, data: Any) -> None:
        """Save it, and note what becomes of it. To be written is not to be read by a node."""
        taken, known = self._entry.take(data), plain(_copy(data))
        self._reads = get_reads(taken)
        try:
            self._dataset.save(plain(taken))
            held = self._dataset.load()
        except Exception as error:  # noqa: BLE001  a class of anybody's, made anew: that may be all that is wrong
            _logger.info("What becomes of %r in the catalog cannot be told: %s", self._name, type(error).__name__)
            self._dataset = _remember(taken, self._mode)
            return
        try:
            given = self._entry.give(held)
            change = find_change(known, given, repr(self._name))
            # The == of an object may be identity, which nothing that is read from a file has.
            same = change is None or digest_value(known) == digest_value(given)
        except Exception as error:  # noqa: BLE001  the == of a class of anybody's, and a validator
            _logger.info("What the catalog changes in %r cannot be told: %s", self._name, type(error).__name__)
            return
        if change is not None and not same:
            self._changes[self._name] = change

    def _describe(self) -> dict[str, Any]:
        return {}


def _copy(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001  a class of anybody's
        return value


def _remember(value: Any, mode: str | None) -> MemoryDataset:
    """The value in memory, copied for each reader as Kedro does by itself; shared where that cannot be."""
    memory = MemoryDataset(copy_mode=mode)
    try:
        memory.save(value)
        memory.load()
    except Exception:  # noqa: BLE001  a class of anybody's
        memory = MemoryDataset(copy_mode="assign")
        memory.save(value)
    return memory


class _NameNode:
    @hook_impl  # type: ignore[untyped-decorator]
    def on_node_error(self, error: Exception, node: Any) -> None:
        """Say which node it was, as a served model does."""
        error.add_note(f"in the inference node {node.name!r}")
