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


@pytest.fixture(scope="session")
def built_world(tmp_path_factory: pytest.TempPathFactory):
    """A world in which an image was built once; nobody changes it."""
    from pip_settings import asked_once
    from world import make_world

    from kbuild.workflow.build import build_image
    from kbuild.workflow.delivery import Delivery

    made = make_world(tmp_path_factory.mktemp("built"))
    with asked_once():
        build_image(made.request(), Delivery(record=False), made.tools)
    return made


@pytest.fixture
def world(tmp_path: Path, built_world):
    """On a machine that has the packages from another build: layers that nothing changed are not made anew."""
    from world import copy_world

    return copy_world(built_world, tmp_path)


@pytest.fixture
def bare_world(tmp_path: Path):
    """On a machine that has built nothing yet."""
    from world import make_world

    return make_world(tmp_path)
