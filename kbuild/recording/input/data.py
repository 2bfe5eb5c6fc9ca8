"""The data that a request is to be like: what training's catalog gives for the inference input."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kbuild.recording.example import take_rows
from kbuild.recording.input.delivery import find_change
from kbuild.training.described import find_dataset
from kbuild.training.entry import EntryValidator

_logger = logging.getLogger(__name__)


def find_data(names: Sequence[str], catalog: Any, captured: Mapping[str, Any]) -> tuple[Any, bool]:
    """The request's data, of several inputs a dict of them; and whether it is there.

    What a validator of the catalog makes of it is told: a served model runs none.
    """
    from kedro.io import DatasetError

    found = {}
    for name in names:
        dataset = find_dataset(name, catalog)
        if name not in captured and dataset is None:
            return None, False
        entry = EntryValidator(name, catalog)
        try:
            held = entry.take(captured[name]) if name in captured else dataset.load()  # type: ignore[union-attr]
        except DatasetError:
            # Released, or never made in this run: the example says so if nothing else gives a signature.
            return None, False
        found[name] = entry.give(held)
        if entry.validates:
            _warn_of_validator(name, held, found[name])
    return (found if len(names) > 1 else found[names[0]]), True


def _warn_of_validator(name: str, held: Any, given: Any) -> None:
    try:
        change = find_change(take_rows(held, 5), take_rows(given, 5), repr(name))
    except Exception as error:  # noqa: BLE001  the == of a class of anybody's
        _logger.info("What the catalog's validator changes in %r cannot be told: %s", name, type(error).__name__)
        return
    if change is not None:
        _logger.warning(
            "The catalog's validator of %r gives nodes something else than its data: %s. A served model runs no "
            "validator: requests have to bring what the validator gives.", name, change,
        )  # fmt: skip
