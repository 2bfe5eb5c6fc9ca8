"""What ``kbuild.spark_udf`` calls in an executor's Python, the archive's. Spark sends its name, not its code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pandas as pd

from kbuild.errors import PredictionError
from kbuild.scoring.ask import Model, answer_rows, answers_of_all
from kbuild.scoring.settings import model_folder


def answer_or_fail(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The answers to batches of rows; raises PredictionError at a row without one."""
    for batch in batches:
        yield _answer(batch, null=False)


def answer_or_null(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The same, with nothing for a row without an answer."""
    for batch in batches:
        yield _answer(batch, null=True)


@cache
def _model() -> Model:
    return Model(model_folder())


def _answer(batch: pd.DataFrame, *, null: bool) -> pd.DataFrame:
    model = _model()
    frame = batch.reset_index(drop=True)
    model.check_columns(list(frame.columns), "what the function is given")
    good, answers, unfit = answer_rows(model, frame, to_first=not null)
    if unfit and not null:
        raise PredictionError(f"a row has no answer: {next(iter(unfit.values()))}")
    return answers_of_all(model, answers, good, len(frame)).to_pandas(integer_object_nulls=True)
