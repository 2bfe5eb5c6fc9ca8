from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kbuild.cli.run import command
from kbuild.errors import ContainerFailed


def test_a_port_that_is_taken_is_named_before_anything_is_built(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(command, ["no-such-image:1", "--port", str(port)])
    assert isinstance(result.exception, ContainerFailed), result.exception
    assert f"port {port}" in result.exception.message
    assert "--port" in (result.exception.hint or "")


class Running:
    """An image that was started; ``stops`` counts how often it was ended."""

    url = "http://127.0.0.1:9"
    stops = 0

    def stop(self) -> None:
        self.stops += 1


def test_ctrl_c_ends_it_while_it_is_getting_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    running = Running()

    @contextmanager
    def found(*_: object) -> Iterator[tuple[None, None]]:
        yield None, None

    def wait(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    monkeypatch.setattr("kbuild.cli.run.found_image", found)
    monkeypatch.setattr("kbuild.cli.run.start_image", lambda *_, **__: running)
    monkeypatch.setattr("kbuild.cli.run.wait_until_ready", wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = time.monotonic()
    try:
        with pytest.raises(click.Abort):
            command.main(["image:1"], standalone_mode=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 20
    assert running.stops == 1
