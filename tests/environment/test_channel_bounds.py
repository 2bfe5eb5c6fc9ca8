"""Channels that send without end, or hardly anything, through rattler's own client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from listening import listening

from kbuild.environment.condalock.failures import explain_failure
from kbuild.environment.index import channel_bounds
from kbuild.errors import IndexUnavailable

SOLVE = """
import os, sys
from kbuild.environment.condalock import rattler_solver
from kbuild.environment.index import channel_bounds
channel_bounds.DRIPS, channel_bounds.LARGEST = float(sys.argv[2]), int(sys.argv[3]) << 20
rattler_solver._end(*rattler_solver.main(["create", "--channel", sys.argv[1], "python"], os.environ))
"""


class Server(BaseHTTPRequestHandler):
    """``/drips/`` sends little and ``/held/`` much for whatever is asked, ``/stored/`` one large list of packages."""

    def do_GET(self) -> None:
        if self.path.startswith("/stored/") and not self.path.endswith("/repodata.json"):
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(b'{"packages": {"')
            while True:
                slowly = self.path.startswith("/drips/")
                self.wfile.write(b"x" if slowly else b"x" * (1 << 20))
                time.sleep(0.05 if slowly else 0.01)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("drips", "did not come within 1 s; on a slow line set KBUILD_LONGEST_WAIT=600"),
        ("held", "more than 64 MiB"),
        ("stored", "have more than 96 MiB"),
    ],
)
def test_a_channel_without_end_is_cut_off(tmp_path: Path, kind: str, why: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    # On a machine with other work little may come in a second, or much before it is looked at.
    drips, largest = "1" if kind == "drips" else "20", "96" if kind == "stored" else "4096"
    with listening(server) as url:
        environ = {**os.environ, "CONDA_SUBDIR": "linux-64", "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", SOLVE, f"{url}/{kind}", drips, largest],
            capture_output=True,
            text=True,
            env=environ,
            timeout=60,
        )
    assert done.returncode == 1
    said = json.loads(done.stdout)["message"]
    assert why in said and f"{url}/{kind}" in said
    shown = f"Could not lock the environment for platform linux-64\n{said}\n    Command: []\n"
    error = explain_failure(shown, releases=lambda _: {})
    assert type(error) is IndexUnavailable
    assert error.message.startswith(f"the conda channel at {url.partition('//')[2]} does not answer: ") and why in str(
        error
    )
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert stored < 200 << 20


def test_what_connections_received_is_the_kernels_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            name = str(Path(f"/proc/self/fd/{one.fileno()}").readlink())
            assert channel_bounds.received()[name] == 0
            other.sendall(b"x" * 5000)
            while len(one.recv(5000, socket.MSG_PEEK)) < 5000:
                pass
            assert channel_bounds.received()[name] == 5000
            before = channel_bounds.written()
            os.write(2, b"")
            assert channel_bounds.written() >= before


def test_who_waits_for_no_server_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes take turns at one cache: the other one may take long."""
    monkeypatch.setattr(channel_bounds, "DRIPS", 0.3)
    said: list[str] = []
    channel_bounds.watch_channels(said.append)
    time.sleep(1.5)
    assert said == []
