"""What the demo says of a training that failed."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.traceback import Traceback

from kbuild.workflow.demo import find_last_words


def draw(error: Exception, width: int) -> str:
    stream = io.StringIO()
    try:
        raise error
    except Exception as raised:  # noqa: BLE001
        made = Traceback.from_exception(type(raised), raised, raised.__traceback__, show_locals=True)
        Console(file=stream, width=width).print(made)
    return stream.getvalue()


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'sklearn'"), ValueError("a" * 150), KeyError("age")]
)
def test_of_a_traceback_in_a_box_the_error_is_told(error: Exception) -> None:
    drawn = draw(error, 1000)
    told = find_last_words(drawn, "[11/28/26 10:38:52] INFO     Loading data          data_catalog.py:1007\n")
    assert told == f"{type(error).__name__}: {error}"


def test_of_a_plain_traceback_the_last_line() -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1\nkedro.io.core.DatasetError: no file\n'
    assert find_last_words(text, "INFO  other\n") == "kedro.io.core.DatasetError: no file"
    assert find_last_words("Error: No such command 'rum'.\n", "") == "Error: No such command 'rum'."


def test_without_any_error_the_last_line_less_its_margin() -> None:
    log = "[11/28/26] INFO     Loading data from patients                      data_catalog.py:1007\n\n"
    assert find_last_words("", log) == "[11/28/26] INFO     Loading data from patients"
    assert find_last_words("", "") == "it said nothing"
