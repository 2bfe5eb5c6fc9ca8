"""Twice what the server can answer, for as long as asked; then SIGTERM while it goes on.

    python integration/load.py [--seconds 600] [--factor 2] [--workers 1] [--batch 1] [--json FILE]

The model tells each request's own row and params, so that every answer is checked against its own request. Printed as
JSON: requests a second that are sustained and offered, answers by status, what was wrong (nothing should be), memory
over time, seconds until it answers as before, and what became of the requests that were under way at SIGTERM. The exit
code is 1 where something of that must not be. It stops by itself ``--seconds`` and two minutes after it began.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONNECTIONS = 256
# What was sent so long before SIGTERM has been read by the server.
SETTLED = 0.2


@dataclass(kw_only=True)
class Tally:
    """What became of the requests; times in seconds."""

    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    unsent: int = 0


class Client:
    """Asks over kept connections; ``number`` makes each request another one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = 0
        self.tally = Tally()

    async def ask(self, number: int) -> int:
        """Send one request and check its answer; the status, 0 where the connection was lost."""
        while self._idle and self._idle[-1][0].at_eof():
            self._open -= 1
            self._idle.pop()[1].close()
        if not self._idle and self._open >= CONNECTIONS:
            self.tally.unsent += 1
            return 0
        begun = time.monotonic()
        writer = None
        try:
            if self._idle:
                reader, writer = self._idle.pop()
            else:
                self._open += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            status, headers, body = await self._exchange(reader, writer, number)
        except (OSError, asyncio.IncompleteReadError):
            self._open -= 1
            if writer is not None:
                writer.close()
            self.tally.lost.append(begun)
            return 0
        if headers.get("connection") == "close":
            self._open -= 1
            writer.close()
        else:
            self._idle.append((reader, writer))
        self._check(number, status, headers, body, time.monotonic() - begun)
        return status

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> tuple[int, dict[str, str], bytes]:
        body = json.dumps(make_request(number)).encode()
        writer.write(
            b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"X-Request-Id: r%d\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))

    def _check(self, number: int, status: int, headers: dict[str, str], body: bytes, seconds: float) -> None:
        tally = self.tally
        tally.statuses[status] += 1
        told = json.loads(body)
        if headers.get("x-request-id") != f"r{number}":
            tally.wrong.append(f"request {number} has the id {headers.get('x-request-id')}")
        if status == 200:
            tally.answered.append(seconds)
            if told != expect(number):
                tally.wrong.append(f"request {number} was answered {body[:300]!r}")
        elif status == 503:
            tally.refused.append(seconds)
            if headers.get("retry-after") != "1" or set(told) != {"error_code", "message"}:
                tally.wrong.append(f"request {number} was refused with {headers} {body[:300]!r}")
        else:
            tally.wrong.append(f"request {number} was answered {status} {body[:300]!r}")

    async def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def make_request(number: int) -> dict[str, Any]:
    """A request like no other: one to three rows, and params of its own for two of three."""
    rows = [
        {"x": number + row / 4, "n": number % 1000 + row, "flag": number % 2 == 0, "text": f"{number}.{row}"}
        for row in range(1 + number % 3)
    ]
    # Few different params too, so that some requests may be answered together.
    params = ({}, {"times": number % 5}, {"times": number, "scale": 0.5, "word": f"w{number}"})[number // 3 % 3]
    return {"dataframe_records": rows, **({"params": params} if params else {})}


def expect(number: int) -> dict[str, Any]:
    """The answer to it."""
    request = make_request(number)
    params = {"scale": 2.0, "times": 3, "word": "é", **request.get("params", {})}
    return {
        "predictions": [
            {**row, "score": row["x"] * params["scale"] + params["times"], "word": params["word"]}
            for row in request["dataframe_records"]
        ]
    }


def tell(table: Any, scale: float, times: int, word: str) -> Any:
    """The model's one node."""
    return table.assign(score=table["x"] * scale + times, word=word)


def save_model(folder: Path) -> Path:
    """The model, with an example, as MLflow saves models; in a process of its own, since importing takes memory."""
    sys.path.insert(0, str(HERE.parent / "tests" / "serving"))
    import cloudpickle
    import models

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    python_model = models.make_kedro_model(folder / "params", tell)
    example = models.pd.DataFrame([row for number in (2, 5) for row in make_request(number)["dataframe_records"]])
    models.mlflow.pyfunc.save_model(
        folder / "model",
        python_model=python_model,
        artifacts=python_model.extract_pipeline_artifacts(folder / "params"),
        signature=models.make_signature("mixed"),
        input_example=example,
        pip_requirements=["mlflow"],
    )
    return folder / "model"


def memory(pid: int) -> float:
    """Anonymous memory in MB of a process and all below it, what they share counted once (proc(5), smaps_rollup).

    Mapped files are left out: how much of them counts as ours changes with what else runs on the machine.
    """
    total, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        # A process may end in between.
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8")
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss_Anon:"))
            waiting += map(int, Path(f"/proc/{each}/task/{each}/children").read_text(encoding="utf-8").split())
    return total / 1000


@contextmanager
def served(model: Path, port: int, workers: int, batch: int) -> Iterator[subprocess.Popen[bytes]]:
    """Our server in a process, ended by its id."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KBUILD_", "OTEL_"))}
    variables = {
        "KBUILD_MODEL": str(model), "KBUILD_HOST": "127.0.0.1", "KBUILD_PORT": str(port), "DO_NOT_TRACK": "1",
        "KBUILD_WORKERS": str(workers), "KBUILD_MAX_BATCH": str(batch), "KBUILD_IMPORT_MLFLOW": "eager",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "kbuild.serving"], env={**kept, **variables})
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


async def wait_ready(client: Client, process: subprocess.Popen[bytes]) -> None:
    """Until it answers 200; raises SystemExit when it ends or takes two minutes."""
    end = time.monotonic() + 120
    while await client.ask(0) != 200:
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("the server did not start")
        await asyncio.sleep(0.1)


async def sustain(port: int, seconds: float) -> tuple[float, float]:
    """Requests a second that a few connections get answered, and the median latency in seconds of one connection."""
    rates = []
    for connections in (1, 4):
        client = Client(port)
        end = time.monotonic() + seconds

        async def one(start: int, client: Client = client, end: float = end) -> None:
            number = start
            while time.monotonic() < end:
                await client.ask(number)
                number += 7919

        await asyncio.gather(*(one(start) for start in range(connections)))
        await client.close()
        rates.append((client.tally.statuses[200] / seconds, statistics.median(client.tally.answered)))
    return rates[1][0], rates[0][1]


async def offer(client: Client, rate: float, end: asyncio.Event, numbers: Iterator[int]) -> None:
    """Requests at random moments, ``rate`` a second on average, whatever becomes of them, until ``end``."""
    rng = random.Random(0)  # noqa: S311 - moments, no secrets
    asked: set[asyncio.Task[int]] = set()
    due = time.monotonic()
    while not end.is_set():
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(client.ask(next(numbers)))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)


async def run(options: argparse.Namespace, model: Path, port: int) -> dict[str, Any]:
    """All of it; what was found."""
    with served(model, port, options.workers, options.batch) as process:
        await wait_ready(Client(port), process)
        await sustain(port, 1)
        rate, calm = await sustain(port, 3)
        client, end = Client(port), asyncio.Event()
        numbers = iter(range(1, 2**60))
        offering = asyncio.create_task(offer(client, options.factor * rate, end, numbers))
        samples: list[float] = []
        begun = time.monotonic()
        while time.monotonic() - begun < options.seconds:
            await asyncio.sleep(min(1.0, options.seconds / 20))
            samples.append(memory(process.pid))
        end.set()
        seconds = time.monotonic() - begun
        await offering
        await client.close()
        recovered = time.monotonic()
        again = Client(port)
        while await again.ask(1) != 200:
            await asyncio.sleep(0.001)
        recovered = time.monotonic() - recovered
        _, calm_again = await sustain(port, 2)
        found = describe(client.tally, samples, seconds) | {
            "sustained_per_second": round(rate, 1),
            "offered_per_second": round(sum(client.tally.statuses.values()) / seconds, 1),
            "recovered_after_seconds": round(recovered, 3),
            "latency_before_and_after_ms": [round(1000 * calm, 2), round(1000 * calm_again, 2)],
        }
        return found | {"term": await stop_under_load(process, port, options.factor * rate)}


async def stop_under_load(process: subprocess.Popen[bytes], port: int, rate: float) -> dict[str, Any]:
    """SIGTERM while requests come in; what had been sent before is answered, and the server ends by itself."""
    client, end = Client(port), asyncio.Event()
    offering = asyncio.create_task(offer(client, rate, end, iter(range(1, 2**60))))
    await asyncio.sleep(2)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait, 60)
    seconds = time.monotonic() - told
    end.set()
    await offering
    return {
        "answers": dict(client.tally.statuses),
        "wrong": client.tally.wrong[:5],
        "accepted_and_lost": sum(begun < told - SETTLED for begun in client.tally.lost),
        "exit_code": code,
        "seconds": round(seconds, 3),
    }


def describe(tally: Tally, samples: list[float], seconds: float) -> dict[str, Any]:
    """The tally as plain values; memory in MB."""
    part = max(1, len(samples) // 10)
    tenths = [round(statistics.median(samples[start : start + part]), 1) for start in range(0, len(samples), part)]
    return {
        "seconds": round(seconds, 1),
        "answers": dict(sorted(tally.statuses.items())),
        "answered_200_per_second": round(tally.statuses[200] / seconds, 1),
        "wrong": len(tally.wrong),
        "examples": tally.wrong[:5],
        "lost": len(tally.lost),
        "not_sent": tally.unsent,
        "answered_ms": quantiles(tally.answered),
        "refused_ms": quantiles(tally.refused),
        "memory_mb": {"by_tenth_of_the_time": tenths[:10], "most": round(max(samples), 1)},
    }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in ms."""
    ordered = sorted(seconds) or [0.0]
    return {
        f"p{part}": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * part // 100)], 2) for part in (50, 99)
    }


def find_faults(found: dict[str, Any]) -> list[str]:
    """What must not be."""
    # What the first tenth of the time takes is what fills up once: buffers, caches, threads.
    tenths, term = found["memory_mb"]["by_tenth_of_the_time"], found["term"]
    rules = {
        "wrong answers": found["wrong"] > 0 or bool(term["wrong"]),
        "lost connections": found["lost"] > 0,
        "no answer at all": not found["answers"].get(200),
        "nothing was refused, so it was no overload": not found["answers"].get(503),
        "memory grows": tenths[-1] > 1.05 * tenths[1] + 5,
        "slow to recover": found["recovered_after_seconds"] > 1,
        "accepted requests were lost at SIGTERM": term["accepted_and_lost"] > 0,
        "did not end by itself": term["exit_code"] != 0,
    }
    return [name for name, broken in rules.items() if broken]


def main() -> int:
    """Run, print, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--factor", type=float, default=2.0, help="offered, as a multiple of what is sustained")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1, help="KBUILD_MAX_BATCH")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.alarm(int(options.seconds) + 120)
    sys.path.insert(0, str(HERE))
    from engines import free_port

    with tempfile.TemporaryDirectory(prefix="kbuild-load-") as folder:
        code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import load, pathlib; "
        code += "load.save_model(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True)
        found = asyncio.run(run(options, Path(folder, "model"), free_port()))
    found["faults"] = find_faults(found)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
