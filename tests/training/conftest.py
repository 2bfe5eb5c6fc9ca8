"""A tiny Kedro project and an MLflow store, the store made once and copied."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Helpers beside the tests are importable: pytest's importlib mode leaves the folders off sys.path.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from loaded import Loaded  # noqa: E402

from kbuild.recording import clean_check  # noqa: E402
from kbuild.recording.surroundings import make_variables  # noqa: E402

with warnings.catch_warnings():
    # MLflow and Kedro warn of their own type hints and dependencies while they are imported.
    warnings.simplefilter("ignore")
    import kedro.framework.session  # noqa: F401
    import kedro_datasets.json.json_dataset
    import kedro_datasets.pandas.csv_dataset
    import kedro_datasets.pickle.pickle_dataset  # noqa: F401
    import mlflow
    import mlflow.pyfunc.scoring_server

PACKAGE = "tinyshop"
FUNCTIONS = '''
    """Functions of a tiny project."""

    import pandas as pd


    def make_orders():
        return pd.DataFrame({"price": [10.0, 20.0, 30.0], "count": [1, 2, 3]})


    def fit(orders):
        return {"factor": float(orders["price"].mean())}


    def score(orders, factors, bonus):
        return pd.DataFrame({"total": orders["price"] * orders["count"] * factors["factor"] + bonus})


    def split_score(orders, factors):
        return orders * factors["factor"], len(orders)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module ``tinyshop.functions`` of a package in ``tmp_path/src``, forgotten again afterwards."""
    home = tmp_path / "src" / PACKAGE
    home.mkdir(parents=True)
    (home / "__init__.py").write_text('"""A tiny project."""\n')
    (home / "functions.py").write_text(textwrap.dedent(FUNCTIONS).lstrip())
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    from importlib import import_module

    yield import_module(f"{PACKAGE}.functions")
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def store(migrated: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    """A client of a store in ``tmp_path``, which MLflow's own variable names."""
    path = tmp_path / "store" / "mlflow.db"
    path.parent.mkdir()
    path.write_bytes(migrated)
    uri = f"sqlite:///{path}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(path.parent)
    yield mlflow.MlflowClient(uri)
    mlflow.end_run()


@pytest.fixture
def quick_check(with_mlflow: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clean process has MLflow already, and may read this machine's files: for what is made of its answers."""

    def start(check: Any, *, network: bool) -> Any:
        job = check.write_task(network=network)
        program = "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__')"
        return with_mlflow.run(
            program, argv=(str(check.scripts[0]), str(job)), env=make_variables(), cwd=check.own / "empty"
        )

    monkeypatch.setattr(clean_check, "_start_rooted", start)
