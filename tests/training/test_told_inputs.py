"""What of an input no request brings is said while it is recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from kbuild.recording.input.labels import tell_lost

TABLE = pd.DataFrame({"a": [1.0, 2.0, 3.0]})


def noted(**attrs: str) -> pd.DataFrame:
    table = TABLE.copy()
    table.attrs.update(attrs)
    return table


@pytest.mark.parametrize(
    "data",
    [
        TABLE,
        TABLE.iloc[:0],
        TABLE["a"],
        TABLE.set_index(pd.Index([7, 8, 9], name="row")),  # it travels, since it has a name
        TABLE.set_index(pd.Index(["x", "y", "z"])),
        np.array([1.0]),
        {"a": TABLE},
        [1, 2],
        3,
    ],
)
def test_nothing_is_said_of_what_is_served_whole(data: Any) -> None:
    assert tell_lost(data) == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (noted(unit="mm"), "attrs (unit)"),
        (noted(unit="mm")["a"], "attrs (unit)"),
        (TABLE.iloc[1:], "row numbers, from 1"),
        (TABLE.iloc[1:]["a"], "row numbers, from 1"),
        (TABLE.iloc[[2, 0]], "row numbers, from 2"),
        (TABLE.set_index(pd.RangeIndex(0, 6, 2)), "row numbers, from 0"),
        (np.float32(1.5), "float32 of NumPy, is served as Python's float"),
        (np.array(["long", "a"]), "<U4"),
        ({"left": TABLE, "right": TABLE.iloc[1:]}, "Of the input 'right' the row numbers"),
    ],
)
def test_what_is_lost_is_said(data: Any, words: str) -> None:
    [line] = tell_lost(data)
    assert words in line
