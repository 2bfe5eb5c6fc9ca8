"""Measuring: a bounded load on a real server, and what is kept of it and made of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from listening import listening

from kbuild.api.measuring import MeasuredImage
from kbuild.cli import measure as cli
from kbuild.deploy.deployment import Size
from kbuild.deploy.measured import size_by
from kbuild.digest import Digest
from kbuild.errors import ConfigurationError, ContainerFailed
from kbuild.image.run.usage import Usage, busy_seconds, docker_host, docker_usage, this_host, tree_usage
from kbuild.measuring.load import ask_for, quantile
from kbuild.measuring.measure import Measured, measure_image
from kbuild.measuring.profile import Profile, Profiles
from kbuild.progress import Silent

DIGEST = Digest("a" * 64)
DELAY = 0.02
# As a Docker engine 26 with cgroup v2 answers GET /containers/ID/stats?stream=false&one-shot=true, cut.
STATS = {
    "memory_stats": {"usage": 200_000_000, "stats": {"inactive_file": 50_000_000, "active_file": 1}, "limit": 1},
    "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000, "usage_in_usermode": 1}},
}


@contextmanager
def serving(status: int = 200, drop: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes DELAY for an answer, whatever else it does; its url, and the bodies that it got."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(DELAY)
            if drop:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, bodies


def test_each_connection_has_one_request_under_way() -> None:
    looks: list[None] = []
    with serving() as (url, bodies):
        answers = ask_for(url, b'{"inputs": [1]}', connections=4, seconds=0.6, look=lambda: looks.append(None))
    assert answers.failed == 0 and len(answers.latencies) == len(bodies) and {*bodies} == {b'{"inputs": [1]}'}
    # What a closed loop is bounded by: four at a time, each of which takes DELAY.
    assert min(answers.latencies) >= DELAY
    assert 4 <= len(answers.latencies) <= 4 * (0.6 / DELAY + 1)
    assert 0.6 <= answers.seconds < 10 and answers.rate == len(answers.latencies) / answers.seconds
    assert looks


@pytest.mark.parametrize(("given", "words"), [({"status": 500}, "500: {}"), ({"drop": True}, "RemoteDisconnected")])
def test_what_fails_is_counted_and_told(given: dict[str, Any], words: str) -> None:
    with serving(**given) as (url, _):
        answers = ask_for(url, b"{}", connections=1, seconds=0.2)
    assert not answers.latencies and answers.failed >= 1 and words in answers.words
    assert answers.rate == 0.0


def test_quantiles_are_by_nearest_rank() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [quantile(ordered, part) for part in (0.5, 0.9, 0.99, 1)] == [50, 90, 99, 100]
    assert quantile([7.0], 0.5) == 7.0 and math.isnan(quantile([], 0.5))


class Running:
    """An image that serves; it takes more memory with each look, and half a processor."""

    started = 0.0

    def __init__(self, url: str, memory: int | None = 100, stops: bool = False) -> None:
        self.url, self._memory, self._begin, self._stops = url, memory, time.monotonic(), stops

    def usage(self) -> Usage:
        if self._memory is not None:
            self._memory += 1
        return Usage(memory=self._memory, processor=0.5 * (time.monotonic() - self._begin))

    def host(self) -> Any:
        return this_host("bubblewrap")

    def alive(self) -> bool:
        return not self._stops

    def logs(self) -> str:
        return "out of memory"

    def log_command(self) -> str:
        return "tail -f log"


WHAT = Measured(digest=DIGEST, platform="linux/amd64", cpu="2", workers=2, start=1.234)


def measured(running: Running) -> Profile:
    return measure_image(running, b"{}", WHAT, connections=(1, 2), seconds=0.3, progress=Silent())  # type: ignore[arg-type]


def test_a_profile_is_what_the_loads_found() -> None:
    with serving() as (url, _):
        profile = measured(Running(url))
    assert (profile.start, profile.idle, profile.cpu, profile.workers, profile.request) == (1.23, 101, "2", 2, 2)
    assert profile.peak is not None and profile.peak > 101
    one, two = profile.loads
    assert (one.connections, two.connections) == (1, 2) and profile.best is two and one.failed == 0
    assert one.p50 is not None and 1000 * DELAY <= one.p50 <= (one.p99 or 0) <= (one.worst or 0)
    assert 0.3 < one.used < 0.8  # half of one, as far as a busy machine keeps time
    assert profile.host.kernel.startswith("Linux ") and profile.host.processors == len(os.sched_getaffinity(0))
    assert Profile.from_json(json.loads(json.dumps(profile.to_json())), "it") == profile


def test_the_most_memory_is_what_workers_take_that_were_asked_something_wrong_too() -> None:
    """A worker imports MLflow at its first request that only MLflow answers: anybody's wrong one is enough."""
    with serving() as (url, bodies):

        class Importing(Running):
            def usage(self) -> Usage:
                wrong = any(body != b"{}" for body in list(bodies))
                return Usage(memory=1_000_000 if wrong else 100, processor=0.0)

        profile = measured(Importing(url))
    assert (profile.idle, profile.peak) == (100, 1_000_000)
    wrong = {body for body in bodies if body != b"{}"}
    assert len(wrong) == 1 and bodies.index(*wrong) > bodies.count(b"{}") / 2, (
        "after the loads, whose rates it may not touch"
    )


def test_memory_that_nobody_tells_is_unknown_and_not_nothing() -> None:
    with serving() as (url, _):
        profile = measured(Running(url, memory=None))
    assert (profile.idle, profile.peak) == (None, None)
    assert size_by(profile, cpu=None, memory=None, replicas=(1, 2)).size.memory == Size().memory


@pytest.mark.parametrize(("status", "stops", "said"), [(400, False, "answered none of"), (200, True, "out of memory")])
def test_an_image_that_does_not_answer_has_no_profile(status: int, stops: bool, said: str) -> None:
    with serving(status) as (url, _), pytest.raises(ContainerFailed, match=said):
        measured(Running(url, stops=stops))


def make(**more: Any) -> Profile:
    value = {
        "format": 1, "digest": str(DIGEST), "platform": "linux/amd64", "cpu": "1", "workers": 1,
        "measured": "2026-11-29T06:00:00Z", "start_seconds": 1.5, "idle_bytes": 150 * 2**20,
        "peak_bytes": 200 * 2**20, "request_bytes": 900,
        "host": {"processors": 2, "architecture": "x86_64", "model": "Xeon", "kernel": "Linux 6.1",
                 "runtime": "Docker 26.1.5", "memory_by": "cgroup", "held": True, "here": True},
        "loads": [{"connections": 8, "seconds": 5.0, "answers": 610, "failed": 0, "rate": 122.0, "p50_ms": 61.0,
                   "p90_ms": 70.0, "p99_ms": 86.0, "worst_ms": 90.0, "used": 1.0, "others": 0.1}],
    }  # fmt: skip
    return Profile.from_json({**value, **more}, "it")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"format": 2}, "its format is 2"),
        ({"loads": []}, "no load"),
        ({"loads": [{}]}, "it has no 'connections'"),
        ({"start_seconds": "1.5"}, "its start_seconds is '1.5'"),
        ({"workers": True}, "its workers is True"),
        ({"peak_bytes": -1}, "its peak_bytes is -1"),
        ({"start_seconds": math.inf}, "its start_seconds is inf"),
        ({"platform": "linux"}, "no platform"),
        ({"digest": "a" * 64}, "is not a profile"),
        ({"host": None}, "is not a profile"),
    ],
)
def test_what_is_no_profile_is_told_with_what_writes_one(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        make(**more)
    assert caught.value.hint is not None and "kbuild measure" in caught.value.hint
    with pytest.raises(ConfigurationError, match="is not a profile"):
        Profile.from_json([], "it")


def test_an_image_has_the_profile_that_was_measured_last_here(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    assert profiles.read(DIGEST) is None
    profiles.write(make())
    profiles.write(make(cpu="2", workers=2))
    assert profiles.read(DIGEST) == make(cpu="2", workers=2)
    (file,) = (tmp_path / "profiles").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"2"', b'"9"'))
    assert profiles.read(DIGEST) is None, "what somebody else wrote"
    other = Digest("b" * 64)
    (tmp_path / "profiles" / other.hex).write_text("{}")
    assert profiles.read(other) is None


def test_sizes_are_those_that_were_measured_with_room() -> None:
    sized = size_by(make(), cpu=None, memory=None, replicas=(2, 10))
    # 200 MiB and a quarter are 250, in steps of 64.
    assert (sized.size.cpu, sized.size.memory, sized.size.busy) == ("1", "256Mi", 70)
    assert (sized.size.start_period, sized.size.start_times) == (1, 60)
    assert "2 processors x86_64 (Xeon), Linux 6.1, Docker 26.1.5" in sized.told and "other machines" in sized.told
    assert "memory 256Mi: it took 200 MiB" in sized.told
    assert sized.fact is not None and "peak 200 MiB, 122 req" in sized.fact
    slow = size_by(make(start_seconds=90.0), cpu=None, memory=None, replicas=(2, 10)).size
    assert (slow.start_period, slow.start_times) == (9, 100)


def test_a_model_that_waits_scales_before_its_processors_are_busy() -> None:
    (load,) = make().to_json()["loads"]
    for used, busy in ((0.5, 35), (0.01, 10), (1.4, 70)):
        profile = make(loads=[{**load, "used": used}])
        assert size_by(profile, cpu=None, memory=None, replicas=(2, 10)).size.busy == busy


def test_a_busy_machine_is_told_and_its_rates_are_not_taken(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (load,) = make().to_json()["loads"]
    busy = make(loads=[{**load, "used": 0.2, "others": 1.7}])
    sized = size_by(busy, cpu=None, memory=None, replicas=(2, 10))
    assert (sized.size.busy, sized.size.memory) == (70, "256Mi") and "other work had 1.7 processors" in sized.told
    assert sized.fact is not None and "requests/s" not in sized.fact
    monkeypatch.setattr(cli, "measure", lambda *_, **__: as_measured(busy))
    assert "other work had 1.7 of 2 processors" in CliRunner().invoke(cli.command, ["churn:1"]).stderr
    assert not make(loads=[{**load, "others": None}]).disturbed, "another machine's, which nobody tells of"


def test_a_machine_works_what_its_clocks_say_but_for_idle_and_waiting(tmp_path: Path) -> None:
    # proc(5): user nice system idle iowait irq softirq steal guest guest_nice, in ticks.
    (tmp_path / "stat").write_text("cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert busy_seconds(tmp_path) == 171 / os.sysconf("SC_CLK_TCK")
    assert busy_seconds(tmp_path / "none") is None
    (tmp_path / "stat").write_text("nothing\n")
    assert busy_seconds(tmp_path) is None


def test_what_is_stated_counts_and_a_profile_of_other_processors_does_not() -> None:
    stated = size_by(make(), cpu="1000m", memory="3Gi", replicas=(1, 1))
    assert (stated.size.cpu, stated.size.memory, stated.size.start_times) == ("1000m", "3Gi", 60)
    other = size_by(make(), cpu="2", memory=None, replicas=(2, 10))
    assert other.size == Size(cpu="2") and other.fact is None and "kbuild measure --cpu 2" in other.told
    none = size_by(None, cpu=None, memory=None, replicas=(2, 10))
    assert none.size == Size() and none.fact is None and "kbuild measure" in none.told


def test_a_container_takes_what_its_cgroup_counts() -> None:
    assert docker_usage(STATS) == Usage(memory=150_000_000, processor=1.5)
    first = {"memory_stats": {"usage": 30, "stats": {"total_inactive_file": 10, "inactive_file": 1}}, "cpu_stats": {}}
    assert docker_usage(first) == Usage(memory=20, processor=0.0)
    for nothing in ({}, {"memory_stats": {}, "cpu_stats": None}):
        assert docker_usage(nothing) == Usage(memory=None, processor=0.0)


def test_the_machine_is_the_daemons_and_its_processor_is_named_where_it_is_this_one() -> None:
    names = os.uname()
    info = {
        "NCPU": 64, "Architecture": names.machine, "KernelVersion": names.release, "OSType": "linux",
        "ServerVersion": "26.1.5", "Name": "elsewhere",
    }  # fmt: skip
    host = docker_host(info)
    assert (host.processors, host.kernel, host.model) == (64, f"Linux {names.release}", None)
    assert (host.runtime, host.held) == ("Docker 26.1.5", True)
    assert docker_host({**info, "Name": names.nodename}).model == this_host("x").model


def test_a_process_takes_what_all_below_it_take() -> None:
    child = "import sys; kept = bytes(range(256)) * (40 << 12); print(flush=True); sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    before = tree_usage(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        usage = tree_usage(process.pid)
        process.stdin.close()
    assert before.memory is not None and before.processor > 0
    assert usage.memory is not None and 40 << 20 < usage.memory < 90 << 20
    assert tree_usage(process.pid) == Usage(memory=None, processor=0.0)


def as_measured(profile: Profile) -> MeasuredImage:
    return MeasuredImage(image="churn:1", digest=profile.digest, profile=profile)


def test_a_notebook_shows_what_the_command_prints() -> None:
    shown = as_measured(make())._repr_html_()
    assert "<td>churn:1</td>" in shown and str(DIGEST) in shown
    assert "150 MiB idle, 200 MiB at most" in shown and "122 requests/s" in shown


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    monkeypatch.setattr(cli, "open_here", lambda show: None)
    monkeypatch.setattr(cli, "measure", lambda *given, **_: asked.append(given) or as_measured(make()))
    return asked


def test_the_command_prints_a_table_and_on_which_machine(asked: list[Any]) -> None:
    done = CliRunner().invoke(cli.command, ["churn:1", "--connections", "1,8", "--seconds", "2"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"image    churn:1 ({str(DIGEST)[:19]}, linux/amd64)"
    assert lines[1] == "machine  2 processors x86_64 (Xeon), Linux 6.1, Docker 26.1.5"
    assert "150 MiB idle, 200 MiB at most" in done.stdout
    assert max(map(len, lines)) <= 80
    assert lines[-2].split()[:4] == ["CONNECTIONS", "ANSWERS", "FAILED", "REQUESTS/S"]
    assert max(map(len, lines[-2:])) <= 80, "a terminal's usual width"
    assert lines[-1].split() == ["8", "610", "0", "122.0", "61.0", "70.0", "86.0", "90.0", "1.00"]
    ((_, options),) = asked
    assert (options.connections, options.seconds, options.cpu) == ((1, 8), 2.0, "1")
    told = json.loads(CliRunner().invoke(cli.command, ["churn:1", "--json"]).stdout)
    assert Profile.from_json(told, "it") == make()


@pytest.mark.parametrize("text", ["0", "", "1,,2", "257", "a", "-1"])
def test_connections_that_cannot_be_are_told(asked: list[Any], text: str) -> None:
    done = CliRunner().invoke(cli.command, ["churn:1", "--connections", text])
    assert done.exit_code == 2 and "is not one or several of 1 to 256" in done.stderr and not asked


def test_an_image_that_was_emulated_says_so(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not make().is_emulated
    foreign = make(platform="linux/arm64")
    monkeypatch.setattr(cli, "measure", lambda *_, **__: as_measured(foreign))
    assert "was emulated" in CliRunner().invoke(cli.command, ["churn:1"]).stderr


@pytest.mark.parametrize(
    ("given", "example", "said"),
    [({"cpu": "100000"}, b"{}", "processors, and 100000 were asked for"), ({}, None, "without an example")],
)
def test_what_cannot_be_measured_is_told_before_the_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, Any], example: bytes | None, said: str
) -> None:
    from kbuild.api import measuring

    @contextmanager
    def started(*_: object, **told: Any) -> Iterator[Any]:
        assert told["environment"]["KBUILD_WORKERS"] == given.get("cpu", "1")
        yield SimpleNamespace(running=Running("http://127.0.0.1:9"), digest=DIGEST, platform="linux/amd64", seconds=1.0)

    monkeypatch.setattr(measuring, "started", started)
    monkeypatch.setattr(measuring, "read_example", lambda running: example)
    session = SimpleNamespace(tools=SimpleNamespace(cache=tmp_path))
    with pytest.raises(ConfigurationError, match=said):
        measuring.measure("churn:1", measuring.MeasureOptions(**given), session=session)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="cannot be read"):
        measuring.measure("churn:1", measuring.MeasureOptions(request=tmp_path / "none"), session=session)  # type: ignore[arg-type]
