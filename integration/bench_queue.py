"""Many models, four workers with caches of their own; two are killed by -9 and PostgreSQL is restarted once.

    python integration/bench_queue.py [--models 200] [--workers 4] [--kill 2] [--restart] [--serial] [--stand-in]

Told: seconds, images a minute, whether all have the digests that one machine makes (--serial builds them there first),
how often each manifest was sent, and how many bytes the registry keeps beside those of the serial build. With
--stand-in a job is 20 ms of sleep and its push a line in a file: what the queue alone takes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from engines import start_registry
from small_models import write_small
from tool import BIN, INSTALLED, SHARED, Tool, cold
from tracking_setups import Postgres, counting, postgres

LEASE = 6.0  # seconds
RUN = "{:032x}"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the bench was started with."""

    models: int
    workers: int
    kill: int
    restart: bool
    serial: bool
    seed: int
    cache: Path | None


# Stand-ins


def work(uri: str, pushed: Path, name: str) -> None:
    """A worker whose images are lines of a file."""
    from kbuild.digest import digest_bytes
    from kbuild.model.model_reference import ModelReference
    from kbuild.progress import Silent
    from kbuild.workflow.queue.address import QueueAddress
    from kbuild.workflow.queue.database import open_app
    from kbuild.workflow.queue.ledger import PostgresLedger
    from kbuild.workflow.queue.worker import Beat, Worker

    def build(asked: Any, *, run: Any, phases: Any, gates: Any) -> Any:
        gates.planned(digest_bytes(asked.model.encode()))
        time.sleep(0.02)
        gates.built(ModelReference.parse(asked.model), {})
        digest = str(digest_bytes(asked.model.encode()))
        if asked.model not in pushed.read_text("utf-8").split():  # as a registry is asked
            with pushed.open("a", encoding="utf-8") as out:
                out.write(f"{asked.model}\n")
        return SimpleNamespace(
            reference=f"x@{digest}", digest=digest, pushed=f"x@{digest}", reused=False, verified=None, untagged=None
        )

    told = SimpleNamespace(
        begin=lambda model: lambda phase: nullcontext(Silent()), end=lambda outcome: None,
        say=lambda text, **more: print(text, flush=True), complain=lambda text, **more: print(text, flush=True),
    )  # fmt: skip
    app = open_app(QueueAddress(uri), program=name)
    worker = Worker(
        app=app, ledger=PostgresLedger(app), build=build, watcher=told, teller=told, name=name,
        beat=Beat(every=LEASE / 6, lease=LEASE), jobs=1, once=False, end_watched=lambda *_: None, conceal=str,
    )  # fmt: skip
    asyncio.run(worker.run())


def stand_in(asked: Asked, folder: Path) -> dict[str, object]:
    """What the queue alone takes."""
    from kbuild.workflow.queue.address import QueueAddress
    from kbuild.workflow.queue.asked import Asked as Job
    from kbuild.workflow.queue.board import open_board

    pushed = folder / "pushed"
    pushed.touch()
    names = [RUN.format(number) for number in range(1, asked.models + 1)]
    with postgres() as database, ExitStack() as stack, open_board(QueueAddress(database.uri)) as board:
        begin = time.monotonic()
        put = board.put([Job(model=each) for each in names])
        took = time.monotonic() - begin
        argv = [sys.executable, __file__, "--work", database.uri, str(pushed)]
        workers = [stack.enter_context(process([*argv, f"w{n}"], folder / f"w{n}.log")) for n in range(asked.workers)]
        disturb(asked, database, workers, lambda: board.figures().jobs["done"], asked.models)
        ids = [each.id for each in put]
        seconds = until(lambda: board.figures().jobs["done"] + board.figures().jobs["failed"] == len(ids), begin)
        figures = board.figures()
    sent = Counter(pushed.read_text("utf-8").split())
    return {
        "put_s": round(took, 2), "seconds": round(seconds, 1), "jobs_a_second": round(len(ids) / seconds, 1),
        "done": figures.jobs["done"], "failed": figures.jobs["failed"], "lost_workers": figures.lost,
        "pushed": len(sent), "most_pushes_of_one": max(sent.values()),
    }  # fmt: skip


# Real models


def real(asked: Asked, folder: Path) -> dict[str, object]:
    """Images as one machine makes them."""
    models = [write_small(folder / "models" / f"m{n}", n, size=20_000) for n in range(asked.models)]
    refs = folder / "refs.txt"
    refs.write_text("".join(f"{model}\n" for model in models))
    tool = Tool(cache=asked.cache or folder / "cache", environment={"DOCKER_HOST": f"unix://{folder}/no-docker.sock"})
    told: dict[str, object] = {}
    tool("image", models[0])  # locked, downloaded and laid out: what every worker begins with
    parts = (*SHARED, *INSTALLED)
    alone, kept = {}, 0
    if asked.serial:
        with start_registry(folder / "serial") as registry:
            mine = cold(tool, folder / "cache-serial", keep=parts)
            begin = time.monotonic()
            push = f"{registry.address}/fleet/{{name}}:{{model_id}}"
            done = mine("image", "--from-file", refs, "--jobs", "1", "--push", push)
            told["serial_s"] = round(time.monotonic() - begin, 1)
            alone = dict(digest_of(line) for line in done.out.splitlines())
        kept = stored(folder / "serial")
    sent: list[str] = []
    report = folder / "report.json"
    with postgres() as database, start_registry(folder / "fleet") as registry, ExitStack() as stack:
        proxy = stack.enter_context(counting(f"http://{registry.address}", sent)).removeprefix("http://")
        environ = {"KBUILD_QUEUE": database.uri}
        argv = [BIN / "kbuild", "worker", "--no-audit", "--lease", str(LEASE)]
        caches = [cold(tool, folder / f"cache-{n}", keep=parts) for n in range(asked.workers)]
        workers = [
            stack.enter_context(process([*argv, "--name", f"w{n}"], folder / f"w{n}.log", env=each.environ(**environ)))
            for n, each in enumerate(caches)
        ]
        time.sleep(6)  # they begin
        begin = time.monotonic()
        push = f"{proxy}/fleet/{{name}}:{{model_id}}"
        waiting = subprocess.Popen(
            [BIN / "kbuild", "image", "--from-file", refs, "--queue", "--wait", "--report", report, "--push", push],
            env=tool.environ(**environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        disturb(asked, database, workers, lambda: manifests(sent), asked.models)
        out, err = waiting.communicate()
        told["seconds"] = round(time.monotonic() - begin, 1)
        if waiting.returncode:
            raise SystemExit(err[-3000:])
    fleet = dict(digest_of(line) for line in out.splitlines())
    puts = Counter(line for line in sent if line.startswith("PUT ") and "/manifests/" in line)
    told |= {
        "images": len(fleet), "images_a_minute": round(60 * len(fleet) / float(str(told["seconds"])), 1),
        "manifests": len(puts), "most_pushes_of_one": max(puts.values()),
    }  # fmt: skip
    if asked.serial:
        told |= {"as_alone": fleet == alone, "bytes_of_serial": round(stored(folder / "fleet") / kept, 4)}
    return told


def digest_of(line: str) -> tuple[str, str]:
    """The model and the digest that a line of ``kbuild image`` tells."""
    model, _, image = line.partition("\t")
    return model, image.partition("@")[2]


def manifests(sent: list[str]) -> int:
    """How many were sent so far."""
    return sum(line.startswith("PUT ") and "/manifests/" in line for line in list(sent))


def stored(folder: Path) -> int:
    """Bytes of a registry's folder."""
    return sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file())


# Both


def disturb(asked: Asked, database: Postgres, workers: list[subprocess.Popen[bytes]], done: Any, total: int) -> None:
    """Kill some when a part is done, and restart the database between them."""
    chance = random.Random(asked.seed)  # noqa: S311  the same moments again
    moments = sorted(chance.uniform(0.1, 0.7) for _ in range(asked.kill))
    steps = [(part, "kill") for part in moments] + ([(0.4, "restart")] if asked.restart else [])
    for part, what in sorted(steps):
        until(lambda part=part: done() >= part * total, time.monotonic())
        if what == "kill":
            workers.pop(chance.randrange(len(workers))).send_signal(signal.SIGKILL)
        else:
            database.restart()


def until(condition: Any, begin: float) -> float:
    """Seconds since ``begin`` when it is true; what a restart interrupts is asked again."""
    while True:
        with contextlib.suppress(Exception):
            if condition():
                return time.monotonic() - begin
        if time.monotonic() - begin > 3000:
            raise SystemExit("it takes too long")
        time.sleep(0.1)


@contextmanager
def process(argv: list[Any], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        made = subprocess.Popen([str(word) for word in argv], stdout=out, stderr=out, **options)
        try:
            yield made
        finally:
            made.terminate()
            made.wait()


def main() -> None:
    """Print a line of JSON."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--serial", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cache", type=Path, help="of an earlier run, so that nothing is downloaded or laid out anew")
    stated = vars(parser.parse_args())
    folder = stated.pop("folder") or Path(tempfile.mkdtemp(prefix="kbuild-queue-"))
    folder.mkdir(parents=True, exist_ok=True)
    run = stand_in if stated.pop("stand_in") else real
    asked = Asked(**stated)
    load = os.getloadavg()[0]
    print(
        json.dumps({"workers": asked.workers, "models": asked.models, "load": load, **run(asked, folder)}), flush=True
    )


if __name__ == "__main__":
    main()
