import os
import subprocess
import sys
from pathlib import Path

import pytest

from kbuild.serving.process.cpus import limit_pools

# The libraries are not yet there when the server's own module begins, and later have no thread besides the first.
_POOLS = """
import os, sys
import kbuild.serving.__main__ as program
assert "numpy" not in sys.modules
program.limit_pools(os.environ)
import kbuild.serving.http.server, numpy
numpy.ones((300, 300)) @ numpy.ones((300, 300))
print(len(os.listdir("/proc/self/task")))
"""


def test_pools_have_one_thread_where_nobody_said_how_many() -> None:
    environment = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": ""}
    limit_pools(environment)
    assert environment == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "", "OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted where Linux shows them")
def test_pools_are_limited_before_the_libraries_make_them() -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    others = {name: value for name, value in os.environ.items() if name not in names}

    def threads(environment: dict[str, str]) -> str:
        argv = [sys.executable, "-c", _POOLS]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout

    # Libraries have other threads too, such as an allocator's.
    assert threads(others) == threads({**others, **dict.fromkeys(names, "1")})
    if len(os.sched_getaffinity(0)) > 1:
        assert threads(others) != threads({**others, **dict.fromkeys(names, "2")})
