# ruff: noqa: E501 - small programs, a line each
"""Kedro's standard layout: node functions are imported without Kedro, and nothing that matters is left out."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbuild.recording.shipment.deferred_file import is_same_code
from kbuild.recording.shipment.shipping import Shipment, plan_shipment, stage_code, tell_kedro
from kbuild.recording.shipment.tracing import find_pickled_modules

PIPELINE = """
    from kedro.pipeline import Node, Pipeline

    from .nodes import score

    WIDTH = 3


    def create_pipeline(**kwargs) -> Pipeline:
        return Pipeline([Node(score, "a", "b")])
"""
NODES = "def score(a):\n    return a * 2\n"
Make = Callable[..., Path]
# Found without Kedro, as in an image; says what is loaded at the end.
_ALONE = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("kedro", "kbuild"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
sys.path.insert(0, sys.argv[1])
exec(sys.argv[2])
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes the package ``shop`` in Kedro's layout; files by path below it, with ``init`` for the pipeline's own."""

    def make(init: str = "from .pipeline import create_pipeline  # noqa\n", **files: str) -> Path:
        home = tmp_path / "src" / "shop"
        every = {
            "__init__": "",
            "pipelines/__init__": "",
            "pipelines/ds/__init__": init,
            "pipelines/ds/nodes": NODES,
            "pipelines/ds/pipeline": PIPELINE,
            **{name.replace("__in_", "/"): text for name, text in files.items()},
        }
        for name, text in every.items():
            path = home / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        importlib.invalidate_caches()
        return home

    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def ship(*modules: str) -> Shipment:
    for each in modules:
        importlib.import_module(each)
    return plan_shipment(modules, "shop", lean=True)


def names(shipment: Shipment) -> set[str]:
    return {each.name for each in shipment.requirements}


def run_alone(shipment: Shipment, folder: Path, code: str) -> str:
    stage_code(shipment.code, folder, shipment.changed)
    done = subprocess.run([sys.executable, "-I", "-c", _ALONE, folder, code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


USE = "from shop.pipelines.ds.nodes import score; print(score(21))"


@pytest.mark.parametrize(
    "init",
    [
        "from .pipeline import create_pipeline  # noqa\n",
        '"""Docs."""\n\nfrom .pipeline import create_pipeline\n\n__all__ = ["create_pipeline"]\n__version__ = "0.1"\n',
        "from shop.pipelines.ds.pipeline import create_pipeline  # NOQA",
        "from . import nodes, pipeline\n",
        "from .nodes import score\nfrom .pipeline import (\n    create_pipeline,\n    WIDTH as W,\n)\n",
        "from .pipeline import *  # noqa: F403\nfrom .nodes import *\n",
        "import shop.pipelines.ds.pipeline\n",
        "try:\n    from .pipeline import create_pipeline\nexcept ImportError:\n    create_pipeline = None\n",
        "from __future__ import annotations\n\nfrom .pipeline import create_pipeline\n\nTAX: float = 0.19\n",
        "from kedro.pipeline import Pipeline\nfrom .pipeline import create_pipeline as make\n",
        "# Größe\nfrom .pipeline import create_pipeline\nNAME = 'Größe'\n",
        "from .pipeline import create_pipeline\r\n__all__ = ('create_pipeline',)\r\n",
    ],
)
def test_node_functions_are_imported_without_kedro(make: Make, tmp_path: Path, init: str) -> None:
    home = make(init)
    shipment = ship("shop.pipelines.ds.nodes")
    assert shipment.kedro_for is None
    assert "kedro" not in names(shipment)
    assert set(shipment.changed) == {home / "pipelines" / "ds" / "__init__.py"}
    assert run_alone(shipment, tmp_path / "code", USE) == "42"


def test_what_is_put_off_comes_when_it_is_asked_for(make: Make, tmp_path: Path) -> None:
    home = make(
        "from .pipeline import create_pipeline, WIDTH as W\nfrom . import nodes\n__all__ = ['create_pipeline']\n"
    )
    shipment = ship("shop.pipelines.ds.nodes")
    stage_code(shipment.code, tmp_path / "code", shipment.changed)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'code')!r}); import shop.pipelines.ds as ds; "
        "assert 'kedro' not in sys.modules; assert ds.W == 3; assert 'kedro' in sys.modules; "
        "from shop.pipelines.ds import *; create_pipeline(); from shop.pipelines.ds import pipeline, nodes; "
        "assert not hasattr(ds, 'nothing'); print('fine')"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr
    # Lines stay where they were, and the file is known as the one it was made of.
    own = (home / "pipelines" / "ds" / "__init__.py").read_bytes()
    shipped = (tmp_path / "code" / "shop" / "pipelines" / "ds" / "__init__.py").read_bytes()
    assert shipped.splitlines()[1:3] == own.splitlines()[1:3]
    assert is_same_code(shipped, own)
    assert not is_same_code(shipped, own + b"#")


def test_without_kedro_the_name_says_what_lacks(make: Make, tmp_path: Path) -> None:
    make()
    code = """
import shop.pipelines.ds as ds
try:
    ds.create_pipeline
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_alone(ship("shop.pipelines.ds.nodes"), tmp_path / "code", code) == "No module named 'kedro'"


def test_packages_of_packages(make: Make, tmp_path: Path) -> None:
    home = make(
        pipelines__in___init__="from . import ds, other\nfrom .ds import create_pipeline as one\n",
        pipelines__in_other__in___init__="from .pipeline import create_pipeline\n",
        pipelines__in_other__in_pipeline="from kedro.pipeline import pipeline\ncreate_pipeline = pipeline\n",
        __init__="from shop import pipelines\n",
    )
    shipment = ship("shop.pipelines.ds.nodes")
    assert "kedro" not in names(shipment)
    # The package above all imports no pipeline itself: it stays as it is.
    assert home / "__init__.py" not in shipment.changed
    assert run_alone(shipment, tmp_path / "code", USE) == "42"


def test_a_project_without_such_imports_is_left_alone(make: Make) -> None:
    make("")
    shipment = ship("shop.pipelines.ds.nodes")
    assert (dict(shipment.changed), shipment.kedro_for) == ({}, None)
    assert "kedro" not in names(shipment)


@pytest.mark.slow
def test_other_imports_stay(make: Make, tmp_path: Path) -> None:
    make("import sklearn\nfrom .pipeline import create_pipeline\n")
    shipment = ship("shop.pipelines.ds.nodes")
    assert "scikit-learn" in names(shipment)
    assert run_alone(shipment, tmp_path / "code", f"{USE}; print('sklearn' in sys.modules)") == "42\nTrue"


NEEDED = {
    "functions in pipeline.py": (
        {"pipelines__in_ds__in_pipeline": PIPELINE + "\n    def inner(a):\n        return a\n"},
        "shop.pipelines.ds.pipeline",
        r"shop/pipelines/ds/pipeline\.py, line 2, imports kedro\.pipeline; it holds served functions",
    ),
    "nodes import kedro": (
        {"utils": "import logging\nfrom kedro.config import OmegaConfigLoader\n", "pipelines__in_ds__in_nodes": "from shop.utils import logging\n" + NODES},
        "shop.pipelines.ds.nodes",
        r"^shop/utils\.py, line 2, imports kedro\.config",
    ),
    "nodes use a name of the package": (
        {"pipelines__in_ds__in_nodes": "def score(a):\n    from shop.pipelines.ds import WIDTH\n    return a\n", "init": "from .pipeline import create_pipeline, WIDTH\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "nodes use an attribute of the package": (
        {"pipelines__in_ds__in_nodes": "import shop.pipelines.ds as ds\ndef score(a):\n    return ds.WIDTH\n", "init": "from .pipeline import create_pipeline, WIDTH\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "nodes use a module by its path": (
        {"pipelines__in_ds__in_nodes": "import shop\ndef score(a):\n    return shop.pipelines.ds.pipeline.WIDTH\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "nodes name a module in a text": (
        {"pipelines__in_ds__in_nodes": "import importlib\ndef score(a):\n    return importlib.import_module('.pipeline', __package__).WIDTH\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "nodes ask the package by getattr": (
        {"pipelines__in_ds__in_nodes": "from shop.pipelines import ds\ndef score(a):\n    return getattr(ds, 'WIDTH')\n", "init": "from .pipeline import WIDTH\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "nodes import all of the package": (
        {"pipelines__in_ds__in_nodes": NODES, "pipelines__in_ds__in_more": "from shop.pipelines.ds import *\n"},
        "shop.pipelines.ds.more",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "the package uses the name": (
        {"init": "from .pipeline import WIDTH\nDOUBLE = WIDTH * 2\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "the package's function uses the name": (
        {"init": "from .pipeline import WIDTH\ndef width():\n    return WIDTH\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "the package looks among the modules": (
        {"init": "import sys\nfrom .pipeline import WIDTH\nLIMIT = getattr(sys.modules[__name__], 'WIDTH')\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "the package's names are read by another way": (
        {"init": "from .pipeline import WIDTH\nLIMIT = globals()['WIDTH']\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "the package's function has the name": (
        {"init": "from .pipeline import WIDTH\ndef WIDTH():\n    return 1\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "the name is set again": (
        {"init": "WIDTH = 1\nfrom .pipeline import WIDTH\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "the package chooses by the machine": (
        {"init": "import os\nif os.environ.get('HOME'):\n    from .pipeline import create_pipeline\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 2, imports kedro",
    ),
    "making pipelines sets an option": (
        {"pipelines__in_ds__in_pipeline": "import pandas as pd\n" + textwrap.dedent(PIPELINE) + "pd.set_option('display.width', 81)\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 12, calls pd\.set_option when it is imported",
    ),
    "making pipelines registers a function": (
        {
            "steps": "STEPS = {}\ndef register(f):\n    STEPS[f.__name__] = f\n    return f\n",
            "pipelines__in_ds__in_pipeline": "from shop.steps import register\n" + textwrap.dedent(PIPELINE) + "\n@register\ndef inner(a):\n    return a\n",
        },
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 13, calls register",
    ),
    "making pipelines changes another module": (
        {"pipelines__in_ds__in_pipeline": "import shop.limits\n" + textwrap.dedent(PIPELINE) + "shop.limits.TOP = 5\n", "limits": "TOP = 1\n"},
        "shop.pipelines.ds.nodes",
        r"pipelines/ds/pipeline\.py, line 12, changes shop\.limits\.TOP",
    ),
    "making pipelines makes a class of its own kind": (
        {"kinds": "class Kind:\n    def __init_subclass__(cls):\n        print(cls)\n", "pipelines__in_ds__in_pipeline": "from shop.kinds import Kind\n" + textwrap.dedent(PIPELINE) + "class Mine(Kind):\n    pass\n"},
        "shop.pipelines.ds.nodes",
        r"line 12, makes a class from shop\.kinds\.Kind",
    ),
    "making pipelines imports for an effect": (
        {"pipelines__in_ds__in_pipeline": "from sklearn.experimental import enable_iterative_imputer  # noqa\n" + textwrap.dedent(PIPELINE)},
        "shop.pipelines.ds.nodes",
        r"line 1, imports sklearn\.experimental without using it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NEEDED)
def test_where_it_may_matter_kedro_stays_and_one_line_says_why(make: Make, case: str) -> None:
    files, module, reason = NEEDED[case]
    make(**files)
    shipment = ship(module)
    assert not shipment.changed
    assert "kedro" in names(shipment)
    assert shipment.kedro_for is not None
    assert re.search(reason, shipment.kedro_for), shipment.kedro_for
    assert "\n" not in shipment.kedro_for


def test_the_line_counts_what_kedro_brings(make: Make) -> None:
    make(pipelines__in_ds__in_nodes="import kedro.io\n" + NODES)
    shipment = ship("shop.pipelines.ds.nodes")
    line = tell_kedro(shipment, shipment.kedro_for or "")
    assert line.startswith("Kedro and "), line
    assert line.endswith(
        " more packages are in the image: shop/pipelines/ds/nodes.py, line 1, imports kedro.io; "
        "it holds served functions, which a file of their own would free of that"
    )


def test_inner_functions_travel_without_their_module(make: Make) -> None:
    make(
        pipelines__in_ds__in_pipeline=PIPELINE + "\n    def outer():\n        import json\n        def inner(a):\n"
        "            from . import nodes\n            return json.dumps(nodes.score(a))\n        return inner\n"
    )
    module = importlib.import_module("shop.pipelines.ds.pipeline")
    found = find_pickled_modules([module.outer(), lambda a: a])
    assert "shop.pipelines.ds.pipeline" not in found
    assert {"shop.pipelines.ds", "shop.pipelines.ds.nodes", "json"} <= found
    assert "shop.pipelines.ds.pipeline" in find_pickled_modules(module.create_pipeline)
