"""Makes the helpers beside the tests importable: pytest's importlib mode leaves the folder off sys.path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def world(tmp_path: Path):
    from world import make_world

    return make_world(tmp_path)
