"""Requests that wait for the model at the same time, answered by one call of it.

Only tables of the same columns, types and params are put together, and only for a model that was seen to answer each
row alike in whatever company. Whatever does not fit is asked by itself, so an answer never depends on its neighbours.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kbuild.answers import compare_texts
from kbuild.serving.answer.answer import write_predictions
from kbuild.serving.answer.fast import FastPath
from kbuild.serving.answer.limits import Limits
from kbuild.serving.answer.model import ServedModel
from kbuild.serving.answer.reply import JSON, Reply
from kbuild.serving.watch.effects import EFFECTS

_MOST_CHECKED_ROWS = 256
Request = tuple[bytes, str]
Answer = tuple[Reply, bool]


class BatchRefused(Exception):
    """The model's answers depend on which rows are asked together, or it cannot be told; says why."""


class BatchAnswers:
    """Answers several requests at a time; made by ``make_batch_answers``. May be used in many threads at once."""

    def __init__(self, fast: FastPath, ask: Callable[[bytes, str], Answer], limits: Limits, shape: Any) -> None:
        self._fast = fast
        self._ask = ask
        self._limits = limits
        self._shape = shape

    def answer(self, requests: Sequence[Request], tell: Callable[[int], None]) -> list[Answer]:
        """The answer to each request; ``tell`` is called with how many requests each call of the model was for."""
        answers: list[Answer | None] = [None] * len(requests)
        for places, tables, params in self._group(requests):
            parts = self._ask_together(tables, params)
            if parts is not None:
                tell(len(places))
                for place, part in zip(places, parts, strict=True):
                    answers[place] = Reply(status=200, body=part), True
        for place, (body, content_type) in enumerate(requests):
            if answers[place] is None:
                tell(1)
                answers[place] = self._ask(body, content_type)
        return [answer for answer in answers if answer is not None]

    def _group(self, requests: Sequence[Request]) -> list[tuple[list[int], list[Any], Any]]:
        """What can be asked together: places of the requests, tables and params."""
        groups: dict[Any, tuple[list[int], list[Any], Any]] = {}
        if len(requests) == 1:
            return []
        for place, (body, content_type) in enumerate(requests):
            if self._limits.is_large(body, content_type):
                continue
            with contextlib.suppress(Exception):  # asked by itself it is answered with what is wrong with it
                table, params = self._fast.read(body, content_type)
                # Equal bytes are equal params; equal params of other bytes are only not put together.
                key = (pickle.dumps(params), tuple(table.columns), tuple(table.dtypes))
                places, tables, _ = groups.setdefault(key, ([], [], params))
                places.append(place)
                tables.append(table)
        # Who is alone is asked alone, once: here it would be asked again where it fails.
        return [
            group for group in groups.values() if len(group[0]) > 1 and sum(map(len, group[1])) <= self._limits.rows
        ]

    def _ask_together(self, tables: list[Any], params: Any) -> list[bytes] | None:
        """The response body for each table; None where each must be asked by itself."""
        try:
            predictions = self._fast.predict(None, pd.concat(tables, ignore_index=True), params=params)
            if _describe(predictions, sum(map(len, tables))) != self._shape:
                return None
            return [write_predictions(part) for part in _split(predictions, [*map(len, tables)])]
        except Exception:  # noqa: BLE001  one of them fails, and only that one may
            return None


def make_batch_answers(
    model: ServedModel, ask: Callable[[bytes, str], Answer], limits: Limits, done: Sequence[str] = ()
) -> BatchAnswers:
    """For a model that answers its example's rows the same (``kbuild.answers``) alone, in halves, and many at once.

    Numeric libraries sum many rows in another order than one, so the last bits of floats are no difference.

    ``ask`` answers one request by itself; ``done`` is what the model did besides answering before. Raises BatchRefused
    saying why where the model does not, or where there is no example of two rows to see it by.
    """
    fast, example = model.fast, model.facts.example
    if fast is None:
        raise BatchRefused("its requests all go MLflow's own way")
    if example is None:
        raise BatchRefused("it has no input example to try it on")
    try:
        table, params = fast.read(example, JSON)
    except Exception as error:
        raise BatchRefused("its input example goes MLflow's own way") from error
    count = len(table)
    if count < 2:
        raise BatchRefused("its input example has fewer than two rows")
    times = max(2, _MOST_CHECKED_ROWS // count)
    try:
        # Where one of several fails, each is asked again by itself, to tell whose error it is.
        with EFFECTS.watch() as seen:
            shape = _describe(fast.predict(None, table.copy(), params=params), count)
        if seen := [*done, *seen]:
            raise BatchRefused(f"it does more than answer, and would do it again for others: {seen[0]}")
        whole = _ask_rows(fast, [table], params, shape)
        companies = (
            [table.iloc[[n]].reset_index(drop=True) for n in range(count)],
            [table.iloc[: count // 2], table.iloc[count // 2 :].reset_index(drop=True)],
            [table.iloc[::-1].reset_index(drop=True)],
            [pd.concat([table] * times, ignore_index=True)],
        )
        answers = [_ask_rows(fast, company, params, shape) for company in companies]
    except BatchRefused:
        raise
    except Exception as error:  # the model's own code: anything can come out of it
        raise BatchRefused(f"it fails on rows of its input example: {type(error).__name__}") from error
    for wanted, found in zip((whole, whole, whole[::-1], whole * times), answers, strict=True):
        for one, other in zip(wanted, found, strict=True):
            fault = compare_texts(one, other, model.facts.tolerance).fault
            if fault is not None:
                raise BatchRefused(f"its answer to a row depends on the rows beside it: {fault}")
    return BatchAnswers(fast, ask, limits, shape)


def _ask_rows(fast: FastPath, tables: list[Any], params: Any, shape: Any) -> list[bytes]:
    """The response body of each row."""
    found = []
    for table in tables:
        predictions = fast.predict(None, table.copy(), params=params)
        if _describe(predictions, len(table)) != shape:
            raise BatchRefused("the type of its answer depends on the rows")
        found += [write_predictions(part) for part in _split(predictions, [1] * len(table))]
    return found


def _describe(predictions: Any, rows: int) -> Any:
    """What must be the same of predictions asked together and apart; raises BatchRefused for none that has rows."""
    if isinstance(predictions, pd.DataFrame | pd.Series | np.ndarray | list) and len(predictions) == rows:
        if isinstance(predictions, pd.DataFrame):
            return "table", tuple(predictions.columns), tuple(predictions.dtypes)
        if isinstance(predictions, pd.Series):
            return "series", predictions.name, predictions.dtype
        if isinstance(predictions, np.ndarray):
            # The length of a numpy text is that of the longest, and is not told.
            kind = predictions.dtype.kind
            return "array", predictions.shape[1:], kind if kind in "US" else predictions.dtype
        return ("list",)
    raise BatchRefused("it does not answer with one row for each row")


def _split(predictions: Any, counts: list[int]) -> list[Any]:
    rows = predictions.iloc if isinstance(predictions, pd.DataFrame | pd.Series) else predictions
    parts, start = [], 0
    for count in counts:
        parts.append(rows[start : start + count])
        start += count
    return parts
