from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partialmethod
from inspect import signature
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(autouse=True)
def pip_is_asked_once() -> Iterator[None]:
    from pip_settings import asked_once

    with asked_once():
        yield


@pytest.fixture(autouse=True)
def answers_apart_from_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """click 8.1, which Kedro 1.0 asks for, mixes stderr into stdout unless told not to; later ones never do."""
    if "mix_stderr" in signature(CliRunner.__init__).parameters:
        monkeypatch.setattr(CliRunner, "__init__", partialmethod(CliRunner.__init__, mix_stderr=False))
