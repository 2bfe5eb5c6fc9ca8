"""A library whose threads no fork has: its model is asked in one process, where others would wait for ever."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("polars")
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are named where Linux shows them")
ASK = "from kbuild.serving.process.forks import survives_fork; print(survives_fork())"


@pytest.mark.parametrize(
    ("work", "survives"),
    [
        ("", True),
        ("import polars", True),
        ("import numpy as n; n.ones((300, 300)) @ n.ones((300, 300))", True),
        ("import pandas, pyarrow as p; p.table({'x': [1, 2]}).to_pandas()", True),
        ("import polars as p; p.DataFrame({'x': [1.0]}).lazy().select(p.col('x') * 2).collect()", False),
    ],
)
def test_only_threads_that_no_fork_has_count(work: str, survives: bool) -> None:
    done = subprocess.run([sys.executable, "-c", f"{work}\n{ASK}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(survives)
