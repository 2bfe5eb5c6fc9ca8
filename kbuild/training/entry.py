"""What a catalog's entry makes of a value on its way in and out: since Kedro 1.7 it may have a validator.

A validator checks the value, and nodes get what it returns, which may be another one (Kedro's API reference,
``kedro.validation.Validator``).
A dataset by itself knows nothing of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class EntryValidator:
    """The validator of one entry, of a catalog that goes on without it; none for most entries, and before Kedro 1.7."""

    def __init__(self, name: str, catalog: Any) -> None:
        self.name = name
        self._alone: Any = None
        validator = (getattr(catalog, "validators", None) or {}).get(name)
        if validator is not None:
            entry = {"type": "kedro.io.MemoryDataset", "copy_mode": "assign", "validator": validator}
            from kedro.io import DataCatalog

            self._alone = DataCatalog.from_config({name: entry}, validation_enabled=catalog.validation_enabled)

    @property
    def validates(self) -> bool:
        """Whether there is a validator."""
        return self._alone is not None

    def take(self, value: Any) -> Any:
        """What is saved where a node returns ``value``."""
        if self._alone is None:
            return value
        with silent_kedro():
            self._alone.save(self.name, value)
        return self._alone.get(self.name).load()

    def give(self, value: Any) -> Any:
        """What the next node gets where ``value`` is what the dataset holds."""
        if self._alone is None:
            return value
        self._alone.get(self.name).save(value)
        try:
            with silent_kedro():
                return self._alone.load(self.name)
        finally:
            self._alone.get(self.name).release()


@contextmanager
def silent_kedro() -> Iterator[None]:
    """Without Kedro's own lines: they would read as those of another run."""
    logger = logging.getLogger("kedro")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
