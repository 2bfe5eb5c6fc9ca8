from __future__ import annotations

from functools import partialmethod
from inspect import signature

import pytest
from click.testing import CliRunner


@pytest.fixture(autouse=True)
def answers_apart_from_talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """click 8.1, which Kedro 1.0 asks for, mixes stderr into stdout unless told not to; later ones never do."""
    if "mix_stderr" in signature(CliRunner.__init__).parameters:
        monkeypatch.setattr(CliRunner, "__init__", partialmethod(CliRunner.__init__, mix_stderr=False))
