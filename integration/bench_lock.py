"""Benchmark of the lock of the demo's model: ``nox -s bench -- lock``.

    python integration/bench_lock.py [--times 3] [--json FILE] [--model FOLDER]

``kbuild lock --force`` as it is, and as it was: index pages asked for one after the other and read whole, the
interpreter packaged anew. In turn, with the real index; the locks are compared byte by byte. Once on a machine that has
made such a lock before, and once on one that knows nothing of the packages yet. Beside it what conda-lock's own process
takes of each, and what it takes to do nothing: to start and tell its version.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench_docker import AS_INSTALLED, alternate
from scoring import train
from tool import BIN, Tool

TOOK = re.compile(r"conda-lock took ([\d.]+) s")
AS_BEFORE = {"KBUILD_WHOLE_INDEX_PAGES": "1"}


def measure(model: Path, folder: Path, times: int) -> dict[str, Any]:
    """Median seconds of each way; fails where two locks differ."""
    numbers = itertools.count()
    tool = Tool(cache=folder / "cache", environment={"XDG_CACHE_HOME": str(folder / "known"), **AS_INSTALLED})
    answer = folder / "first.yml"
    tool("lock", model, "-o", answer, "--interpreter", "captured", cwd=folder)

    own: dict[str, list[float]] = {}

    def lock(way: str = "now", **environment: str) -> None:
        target = folder / f"lock{next(numbers)}.yml"
        done = tool(
            "lock", "-v", model, "--force", "-o", target, "--interpreter", "captured", cwd=folder, **environment
        )
        own.setdefault(way, []).extend(map(float, TOOK.findall(done.err)))
        assert target.read_bytes() == answer.read_bytes(), f"{target} is another lock than {answer}"

    def before(way: str = "before", **environment: str) -> None:
        shutil.rmtree(tool.cache / "channel" / "captured")
        lock(way, **AS_BEFORE, **environment)

    def unknown() -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(folder / f"unknown{next(numbers)}")}

    ways: dict[str, Callable[[], object]] = {
        "before": before,
        "now": lock,
        "before, nothing known": lambda: before("before, nothing known", **unknown()),
        "now, nothing known": lambda: lock("now, nothing known", **unknown()),
        "conda-lock --version": lambda: tool.run([BIN / "conda-lock", "--version"]),
    }
    packages = answer.read_text().count("\n- name: ")
    seconds = alternate(ways, times)
    return {"packages": packages, "seconds": seconds, "conda-lock": {way: median(each) for way, each in own.items()}}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    model = (options.model or train()).resolve()
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as name:
        result = measure(model, Path(name), options.times)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    seconds = result["seconds"]
    print(f"{result['packages']} packages, every lock the same")
    print(f"{'kbuild lock --force':<40}{'seconds':>9}{'faster':>9}{'conda-lock':>12}")
    for way, took in seconds.items():
        base = seconds["before, nothing known" if "nothing" in way else "before"]
        own = result["conda-lock"].get(way)
        print(f"{way:<40}{took:>9.1f}{base / took:>8.1f}x" + ("" if own is None else f"{own:>12.1f}"))


if __name__ == "__main__":
    main()
