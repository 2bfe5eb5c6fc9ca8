"""Cold start of the scoring server beside ``mlflow models serve``: ``nox -s bench -- cold``.

    python integration/bench_cold.py [--times 5] [--json FILE] [--model FOLDER]

The servers take turns. Timed: from the start of the process to the first prediction; what it then holds of memory,
resident and, where pages are shared, in proportion. Then what ours imports, by package, as ``python -X importtime``
tells: milliseconds of each package's own modules, and for whom they are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from asking import answers
from engines import free_port
from scoring import commands, question_of, served, train

# "import time:  self [us] | cumulative | imported package", indented by two spaces a level below the first.
_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|( +)(\S+)")
_SHOWN = 14
_SERVER = ("kbuild", "uvicorn", "asyncio", "yaml", "h11", "click")


def held(pid: int) -> tuple[float, float]:
    """RSS and PSS in MB of a process and all below it (proc(5), smaps_rollup)."""
    resident = shared = 0
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            resident += int(line.split()[1]) if line.startswith("Rss:") else 0
            shared += int(line.split()[1]) if line.startswith("Pss:") else 0
        waiting += map(int, Path(f"/proc/{each}/task/{each}/children").read_text(encoding="utf-8").split())
    return resident / 1000, shared / 1000


def measure_starts(model: Path, times: int) -> list[dict[str, Any]]:
    """Each server's medians, by workers; they are started in turn."""
    question = question_of(model, 1)
    known = commands(model)
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for _ in range(times):
        for workers in (1, 2):
            for name, more in (("kbuild", {}), ("kbuild eager", {"KBUILD_IMPORT_MLFLOW": "eager"}), ("mlflow", {})):
                port = free_port()
                argv, environment = known[name.partition(" ")[0]](port, workers)
                with served(argv, {**environment, **more}, port, question) as (pid, first):
                    for _ in range(20):
                        answers(port, question)
                    found.setdefault((name, workers), []).append((first, *held(pid)))
    return [
        {"server": name, "workers": workers, **dict(zip(("first", "rss", "pss"), _medians(runs), strict=True))}
        for (name, workers), runs in found.items()
    ]


def _medians(runs: list[tuple[float, float, float]]) -> list[float]:
    return [statistics.median(values) for values in zip(*runs, strict=True)]


def measure_imports(model: Path) -> list[dict[str, Any]]:
    """Milliseconds and modules by top-level package, until ours is ready; the second of two runs."""
    port = free_port()
    argv, environment = commands(model)["kbuild"](port, 1)
    text = ""
    for _ in range(2):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("KBUILD_")}
        with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
            process = subprocess.Popen(
                [argv[0], "-X", "importtime", *argv[1:]], env={**kept, "DO_NOT_TRACK": "1", **environment}, stderr=log
            )
            while not answers(port, question_of(model, 1)) and process.poll() is None:
                time.sleep(0.05)
            process.terminate()
            process.wait(30)
            log.seek(0)
            text = log.read()
    return _by_package(text)


def _by_package(text: str) -> list[dict[str, Any]]:
    own: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    asked: dict[str, str] = {}
    # A module stands below those that it imports: read backwards, each finds who imported it above.
    chain: list[str] = []
    for line in reversed(text.splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        level, top = len(match[3]) // 2, match[4].partition(".")[0]
        chain[level:] = [top]
        own[top] += int(match[1])
        modules[top] += 1
        asked[top] = next((name for name in chain if name not in sys.stdlib_module_names), top)
    return [
        {"package": top, "ms": spent / 1000, "modules": modules[top], "for": asked[top]}
        for top, spent in own.most_common()
    ]


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    model = options.model or train()
    starts, imports = measure_starts(model, options.times), measure_imports(model)
    base = {each["workers"]: each for each in starts if each["server"] == "mlflow"}
    columns = f"{'server':14}{'workers':>8}{'first s':>9}{'RSS MB':>8}{'PSS MB':>8}"
    print(f"{columns}{'of mlflow: first':>18}{'RSS':>6}{'PSS':>6}")
    for each in starts:
        ratios = [each[name] / base[each["workers"]][name] for name in ("first", "rss", "pss")]
        print(
            f"{each['server']:14}{each['workers']:8}{each['first']:9.2f}{each['rss']:8.0f}{each['pss']:8.0f}"
            f"{ratios[0]:18.2f}{ratios[1]:6.2f}{ratios[2]:6.2f}"
        )
    print(f"\n{'package':24}{'modules':>8}{'own ms':>9}  for")
    for each in imports[:_SHOWN]:
        print(f"{each['package']:24}{each['modules']:8}{each['ms']:9.1f}  {each['for']}")
    rest = imports[_SHOWN:]
    print(f"{'… and the rest':24}{sum(e['modules'] for e in rest):8}{sum(e['ms'] for e in rest):9.1f}")
    server = sum(each["ms"] for each in imports if each["package"] in _SERVER)
    print(f"{'all':24}{sum(e['modules'] for e in imports):8}{sum(e['ms'] for e in imports):9.1f}")
    print(f"of that the server's own ({', '.join(_SERVER)}): {server:.1f} ms")
    if options.json:
        options.json.write_text(json.dumps({"starts": starts, "imports": imports}, indent=1))


if __name__ == "__main__":
    main()
