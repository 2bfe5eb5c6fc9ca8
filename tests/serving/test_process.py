"""The server as a process: signals, workers, sockets."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kbuild.errors import ConfigurationError
from kbuild.serving.http.listening import LoadingAnswers, listen

# Workers of a supervisor whose work is to tell their number and to wait; "die" makes them die at once.
WORKERS = """
import os, signal, sys, time
from kbuild.serving.http.supervisor import Supervisor
def work(number):
    os.write(1, f"{number} {os.getpid()}\\n".encode())
    if "die" in sys.argv:
        os._exit(3)
    time.sleep(60)
sys.exit(Supervisor(2, work, grace=1).run())
"""

# Both workers hang at once; their successors take their time before they give a sign of life.
BOTH_HANG = """
import os, sys, time
from kbuild.serving.http.supervisor import Supervisor
from kbuild.serving.watch.metrics import Metrics
metrics, seen = Metrics(2), Metrics(2)
def work(number):
    os.write(1, f"{number} {os.getpid()}\\n".encode())
    metrics._base = seen._base = 0
    again = seen.born(number)
    if again:
        time.sleep(3)
    metrics.use_slot(number)
    if not again:
        metrics.give_up()
    while True:
        time.sleep(0.1)
        if again:
            metrics.beat()
seen.born = lambda number: os.path.exists(f"{sys.argv[1]}/{number}") or open(f"{sys.argv[1]}/{number}", "w").close()
sys.exit(Supervisor(2, work, grace=1, silent_for=metrics.silent_for, forget=metrics.begin, hung=30).run())
"""

# The first worker 1 stops giving signs of life, its successor gives them.
HANGING = """
import os, sys, time
from kbuild.serving.http.supervisor import Supervisor
from kbuild.serving.watch.metrics import Metrics
metrics = Metrics(2)
hung = Metrics(1)
def work(number):
    metrics.use_slot(number)
    os.write(1, f"{number} {os.getpid()}\\n".encode())
    if number == 1 and hung.all_ready() == False:
        hung.set_ready()
        metrics.give_up()
    while True:
        time.sleep(0.1)
        if metrics.silent_for(number) < 100:
            metrics.beat()
sys.exit(Supervisor(2, work, grace=1, silent_for=metrics.silent_for, hung=30).run())
"""

ANEW = """
import os, sys, threading, time
from kbuild.serving.http.server import _begin_anew
again = "KBUILD_TEST_AGAIN" in os.environ
print(os.getpid(), 1 + again, flush=True)
if again:
    sys.exit(0)
os.environ["KBUILD_TEST_AGAIN"] = "1"
threading.Thread(target=time.sleep, args=(60,)).start()
_begin_anew()
"""


@contextmanager
def started(*argv: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *argv], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def test_a_dead_worker_is_replaced_and_all_stop_together() -> None:
    with started("-c", WORKERS) as process:
        pids = dict(read_line(process) for _ in range(2))
        assert set(pids) == {0, 1}
        os.kill(pids[1], signal.SIGKILL)
        number, pid = read_line(process)
        assert number == 1 and pid != pids[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not Path(f"/proc/{pids[0]}").exists() and not Path(f"/proc/{pid}").exists()


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    with started("-c", HANGING) as process:
        first = dict(read_line(process) for _ in range(2))
        number, pid = read_line(process)
        assert number == 1 and pid != first[1]
        assert Path(f"/proc/{first[0]}").exists() and not Path(f"/proc/{first[1]}").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_workers_that_hang_together_are_each_replaced_once(tmp_path: Path) -> None:
    with started("-c", BOTH_HANG, str(tmp_path)) as process:
        first = dict(read_line(process) for _ in range(2))
        second = dict(read_line(process) for _ in range(2))
        assert set(first) == set(second) == {0, 1} and not set(first.values()) & set(second.values())
        time.sleep(2.5)  # in which successors were killed for the silence of those before
        assert all(Path(f"/proc/{pid}").exists() for pid in second.values())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.slow
def test_a_server_alone_begins_anew_in_its_own_process() -> None:
    with started("-c", ANEW) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid} 1\n"
        assert process.stdout.readline() == f"{process.pid} 2\n"
        assert process.wait(10) == 0


def test_workers_that_cannot_live_end_the_server() -> None:
    with started("-c", WORKERS, "die") as process:
        assert process.wait(20) == 1


def test_a_model_that_is_none_is_one_line(tmp_path: Path) -> None:
    with started("-m", "kbuild.serving", KBUILD_MODEL=str(tmp_path), KBUILD_HOST="127.0.0.1", KBUILD_PORT="0") as wrong:
        assert wrong.wait(20) == 3
        assert wrong.communicate()[1].startswith("kbuild.serving: KBUILD_PORT")


@pytest.mark.slow
def test_a_signal_before_the_model_is_loaded_ends_the_process_at_once(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"KBUILD_MODEL": str(tmp_path), "KBUILD_HOST": "127.0.0.1", "KBUILD_PORT": str(port)}
    with started("-m", "kbuild.serving", **environment) as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_a_client_that_never_stops_sending_does_not_keep_the_server_from_starting() -> None:
    sockets = listen("127.0.0.1", 0, 1)
    done = threading.Event()

    def drip(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not done.wait(0.1):
                client.sendall(b"x")

    with LoadingAnswers(sockets), socket.create_connection(sockets[0].getsockname()[:2]) as client:
        thread = threading.Thread(target=drip, args=(client,))
        thread.start()
        assert client.recv(100).startswith(b"HTTP/1.1 503 ")
        # Were it heard out, it would be so until it is closed here, which is after the next one is answered.
        with socket.create_connection(sockets[0].getsockname()[:2], timeout=5) as other:
            other.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            assert other.recv(100).startswith(b"HTTP/1.1 200 ")
        done.set()
        thread.join()
    sockets[0].close()


def test_while_loading_only_livez_is_200() -> None:
    sockets = listen("127.0.0.1", 0, 1)
    port = sockets[0].getsockname()[1]

    def get(path: str) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.getheader("Retry-After")

    with LoadingAnswers(sockets):
        assert get("/livez") == (200, None)
        assert get("/health") == (503, "1")
        assert get("/invocations") == (503, "1")
    sockets[0].close()


def test_sockets_share_an_address_and_send_at_once() -> None:
    sockets = listen("127.0.0.1", 0, 1)
    assert sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    port = sockets[0].getsockname()[1]
    with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
        listen("127.0.0.1", port, 1)
    sockets[0].close()
    several = listen("127.0.0.1", port, 3)
    assert {each.getsockname()[1] for each in several} == {port}
    for each in several:
        each.close()
