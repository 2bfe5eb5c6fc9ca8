"""Benchmark of the scoring server: ours, ``mlflow models serve``, MLServer, a bare endpoint, side by side in one run.

    python integration/bench_serving.py [--seconds 6] [--json FILE] [--model FOLDER] [--only NAME ...] [--infer]

All serve the demo's pipeline on 127.0.0.1 with the same packages, artifacts and answers, which is checked first:

- bare: an ASGI endpoint that parses JSON, calls the inference nodes' plan and writes JSON (see bare.py)
- kbuild: this server
- peer: kedro-mlflow's model as its hook logs it, under ``mlflow models serve``
- peer-quiet: the same with Kedro's logging at WARNING (KEDRO_LOGGING_CONFIG)
- mlflow: kbuild's model under ``mlflow models serve``
- mlserver: kbuild's model under MLServer, in an environment that is made for it; only with --only, it takes a minute

With --infer, kbuild and MLServer alone, asked by the Open Inference Protocol v2.

All run at once, with one worker and with two, and are asked in turn, second by second. Load comes from another process.
Ratios mean something, seconds only on this machine; a busy machine means nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from asking import INVOCATIONS, Ask, ask_once, asker
from engines import free_port
from scoring import NAMES, Command, all_commands, memory_alone, question_of, served, tensors_of, train

INFER = "/v2/models/model/infer"
LOADS = ((1, 1), (1, 8), (1000, 1))  # rows, connections
# By how much ours is to be faster: (server, rows) at one worker and one connection.
AT_LEAST = {
    ("peer", 1): 4.5,
    ("peer-quiet", 1): 1.8,
    ("bare", 1): 0.95,
    ("peer", 1000): 4.0,
    ("peer-quiet", 1000): 2.0,
    ("bare", 1000): 0.95,
}


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many answers, how many a second, their latencies in milliseconds; what the server then holds, in MB."""

    server: str
    workers: int
    rows: int
    connections: int
    answers: int
    rate: float
    p50: float
    p99: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that runs."""

    name: str
    workers: int
    port: int
    pid: int


def start_all(known: dict[str, Command], question: bytes, running: contextlib.ExitStack) -> list[Running]:
    """Every server with one worker and with two; they end with ``running``."""
    found = []
    for workers in (1, 2):
        for name, command in known.items():
            port = free_port()
            argv, environment = command(port, workers)
            pid, _ = running.enter_context(served(argv, environment, port, question))
            found.append(Running(name=name, workers=workers, port=port, pid=pid))
    return found


def check_answers(servers: list[Running], questions: list[bytes], path: str) -> None:
    """Raises SystemExit where two servers predict differently."""
    for question in questions:
        answers = {f"{each.name}, {each.workers} workers": ask_once(each.port, question, path)[1] for each in servers}
        if path == INFER:
            # The id and the version of a model are each server's own.
            outputs = ({x["name"]: x["data"] for x in told["outputs"]} if told else None for told in answers.values())
            answers = dict(zip(answers, outputs, strict=True))
        first, expected = next(iter(answers.items()))
        if others := [name for name, answer in answers.items() if answer is None or answer != expected]:
            raise SystemExit(f"these do not predict what {first} predicts: {'; '.join(others)}")


def measure_loads(
    servers: list[Running], ask: Ask, seconds: float, question_of: Callable[[int], bytes], path: str
) -> list[Load]:
    """Every load on every server, a second of each in turn, so that what else the machine does falls on all."""
    found = []
    for rows, connections in LOADS:
        question = question_of(rows)
        took = [0.0 for _ in servers]
        latencies: list[list[float]] = [[] for _ in servers]
        for each in servers:
            ask(each.port, question, connections, 0.5, path)
        turns = max(1, round(seconds))
        for _ in range(turns):
            for number, each in enumerate(servers):
                more, answered = ask(each.port, question, connections, seconds / turns, path)
                took[number] += more
                latencies[number] += answered
        for each, spent, all_of_it in zip(servers, took, latencies, strict=True):
            all_of_it.sort()
            load = Load(
                server=each.name,
                workers=each.workers,
                rows=rows,
                connections=connections,
                answers=len(all_of_it),
                rate=len(all_of_it) / spent,
                p50=1000 * all_of_it[len(all_of_it) // 2],
                p99=1000 * all_of_it[int(len(all_of_it) * 0.99)],
                memory=memory_alone(each.pid),
            )
            found.append(load)
    return found


def find_ratios(loads: list[Load]) -> dict[str, tuple[float, float]]:
    """By what is asked for: the ratio of rates, or of times, that was found, and its bound; negative where at most."""
    at = {(x.server, x.workers, x.rows, x.connections): x for x in loads}
    found: dict[str, tuple[float, float]] = {}
    for (server, rows), bound in AT_LEAST.items():
        if (server, 1, rows, 1) in at:
            found[f"{rows} row(s): {server}"] = at["kbuild", 1, rows, 1].rate / at[server, 1, rows, 1].rate, bound
    one, eight = at["kbuild", 1, 1, 1], at["kbuild", 1, 1, 8]
    found["8 connections / 1"] = eight.rate / one.rate, 0.95
    found["2 workers / 1, rate at 8 connections"] = at["kbuild", 2, 1, 8].rate / eight.rate, 1.7
    found["2 workers / 1, p50 at 1 connection"] = at["kbuild", 2, 1, 1].p50 / one.p50, -1.15
    return found


def print_loads(loads: list[Load]) -> None:
    """One line a load, with how often ours is faster."""
    ours = {(x.workers, x.rows, x.connections): x.rate for x in loads if x.server == "kbuild"}
    heads = ("workers", "rows", "conns", "answers", "req/s", "p50 ms", "p99 ms", "PSS MB", "ours / it")
    print(f"{'server':12}" + "".join(f"{head:>10}" for head in heads))
    for x in loads:
        against = ours.get((x.workers, x.rows, x.connections))
        ratio = f"{against / x.rate:10.2f}" if against else ""
        counts = "".join(f"{value:10}" for value in (x.workers, x.rows, x.connections, x.answers))
        print(f"{x.server:12}{counts}{x.rate:10.1f}{x.p50:10.2f}{x.p99:10.2f}{x.memory:10.0f}{ratio}")


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each load")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, help="the folder of the demo's model, trained anew if not given")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=[name for name in NAMES if name != "mlserver"])
    parser.add_argument("--infer", action="store_true", help="ask by the Open Inference Protocol")
    options = parser.parse_args()
    if options.infer:
        options.only = ["kbuild", "mlserver"]
    model = options.model or train()
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as name, contextlib.ExitStack() as running:
        known = all_commands(model, Path(name), options.only)
        make, path = (tensors_of, INFER) if options.infer else (question_of, INVOCATIONS)
        servers = start_all(known, question_of(model, 1), running)
        check_answers(servers, [make(model, rows) for rows in (1, 5, 1000)], path)
        ask = running.enter_context(asker())
        loads = measure_loads(servers, ask, options.seconds, partial(make, model), path)
    print_loads(loads)
    ratios = find_ratios(loads) if "kbuild" in options.only and not options.infer else {}
    print(f"\n{'kbuild against, one worker, one connection':46}{'ratio':>8}{'bound':>8}")
    for what, (ratio, bound) in ratios.items():
        missed = ratio < bound if bound > 0 else ratio > -bound
        print(f"{what:46}{ratio:8.2f}{'>=' if bound > 0 else '<='}{abs(bound):6.2f}{'  missed' if missed else ''}")
    if options.json:
        found = {"loads": [asdict(x) for x in loads], "ratios": ratios}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
