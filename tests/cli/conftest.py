from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(autouse=True)
def pip_is_asked_once() -> Iterator[None]:
    from pip_settings import asked_once

    with asked_once():
        yield
