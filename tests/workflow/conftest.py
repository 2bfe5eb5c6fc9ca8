"""Makes the helpers beside the tests importable: pytest's importlib mode leaves the folder off sys.path."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


@pytest.fixture(autouse=True)
def pip_is_asked_once() -> Iterator[None]:
    from pip_settings import asked_once

    with asked_once():
        yield


@pytest.fixture
def world(tmp_path: Path):
    from world import make_world

    return make_world(tmp_path)
