"""What the catalog types that write to a run have in common: which run, and how the hook tells them.

Kedro names an entry to its dataset nowhere, and processes of a parallel runner have no active run: so the hook tells
each such dataset of a pipeline its name and the run, before the first node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kedro.io.core import AbstractDataset, DatasetError

from kbuild.datasets.stores import get_active_run
from kbuild.training.described import uncached

_TYPES = ("kbuild.io.metrics.", "kbuild.io.artifacts.", "kbuild.datasets.")
_NO_RUN = "there is no active MLflow run; start one with mlflow.start_run(), or name one with run_id"


class TrackedDataset(AbstractDataset[Any, Any]):  # type: ignore[misc]
    """Of a run: the one that the entry names with ``run_id``, else the one of this training, else the active one."""

    _run_id: str | None = None
    entry: str | None = None
    _attached: str | None = None
    _ended: str | None = None

    off: bool = False

    def attach(self, name: str, run_id: str | None = None, *, off: bool = False) -> None:
        """Be told the entry's name, and the run under way, none when it is over; ``off``: nothing is to be logged."""
        self._ended = self._attached or self._ended
        self.entry, self._attached, self.off = name, run_id, off

    def take_version(self, load_version: str | None, save_version: str | None) -> None:
        """Be told the versions of the Kedro run under way."""

    def find_run(self, *, ended: bool = False) -> str:
        """The id of the run; with ``ended`` also of the last one, to load from. Raises DatasetError for none."""
        if self._run_id is not None or self._attached is not None:
            return str(self._run_id or self._attached)
        active = get_active_run()
        if active is not None:
            return str(active.info.run_id)
        if ended and self._ended is not None:
            return self._ended
        raise DatasetError(_NO_RUN)


def check_run_id(run_id: Any) -> str | None:
    """The entry's ``run_id``; YAML reads one without letters as a number, without its leading zeros."""
    if run_id is None or isinstance(run_id, str):
        return run_id
    raise DatasetError(f"run_id {run_id!r} is not a text; write it in quotation marks")


def find_tracked(names: Iterable[str], catalog: Any) -> Iterator[tuple[str, TrackedDataset]]:
    """The datasets of a catalog that write to a run, by name."""
    for name in sorted(names):
        dataset = uncached(catalog.get(name))
        if isinstance(dataset, TrackedDataset):
            yield name, dataset


def attach_all(names: Iterable[str], catalog: Any, run_id: str | None, *, off: bool = False) -> None:
    """Tell all of them the run, or that there is none any more."""
    versions = getattr(catalog, "_load_versions", None) or {}
    for name, dataset in find_tracked(names, catalog):
        dataset.attach(name, run_id, off=off)
        if run_id is not None or off:
            dataset.take_version(versions.get(name), getattr(catalog, "_save_version", None))


def name_all(entries: Mapping[str, Any], catalog: Any) -> None:
    """Tell those that a catalog file names by these types their names, for use without a run of Kedro's."""
    for name, entry in entries.items():
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if isinstance(kind, str) and kind.startswith(_TYPES) and "{" not in name:
            for _, dataset in find_tracked([name], catalog):
                dataset.attach(name)
