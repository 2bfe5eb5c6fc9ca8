from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner

from kbuild.api.running import RunOptions
from kbuild.cli.run import _how_to_ask, command
from kbuild.digest import digest_bytes
from kbuild.errors import ContainerFailed
from kbuild.image.run.running import RunningImage


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
    def found(*_: object) -> Iterator[tuple[Any, None]]:
        yield SimpleNamespace(digest=digest_bytes(b"")), None

    def wait(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    monkeypatch.setattr("kbuild.api.running.found_image", found)
    monkeypatch.setattr("kbuild.api.running.check_image", lambda *_: None)
    monkeypatch.setattr("kbuild.api.running.start_image", lambda *_, **__: running)
    monkeypatch.setattr("kbuild.api.running.wait_until_ready", wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = time.monotonic()
    try:
        with pytest.raises(click.Abort):
            command.main(["image:1"], standalone_mode=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 20
    assert running.stops == 1


class Asked:
    """A running image of a model with an example; every file of it is here."""

    url = "http://127.0.0.1:9"

    def __init__(self, example: bytes | None) -> None:
        info = "saved_input_example_info: {serving_input_path: serving_input_example.json}\n"
        self.files = {"opt/model/MLmodel": ("flavors: {}\n" + (info if example is not None else "")).encode()}
        self.files |= {} if example is None else {"opt/model/serving_input_example.json": example}

    def read_file(self, path: str) -> bytes | None:
        return self.files.get(path.lstrip("/"))


def _typed(lines: list[str]) -> list[str]:
    """The words of the command at the end, as a shell reads them."""
    begin = next(place for place, line in enumerate(lines) if line.startswith("  curl"))
    assert max(map(len, lines[begin:])) <= 80, "what a terminal breaks cannot be pasted"
    return shlex.split("\n".join(lines[begin:]).replace("\\\n", ""))


def _row(columns: int) -> bytes:
    """An example of so many columns, whose texts have two spaces and quotes where a line may end."""
    row = {f'column {n}  of "it\'s"': "  a" + " b" * n for n in range(columns)}
    return json.dumps({"dataframe_records": [row]}).encode()


def test_the_lines_to_type_ask_with_the_models_own_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short, file = b'{"inputs": ["it\'s"]}', Path("request.json")
    monkeypatch.chdir(tmp_path)
    words = _typed(_how_to_ask(cast("RunningImage", Asked(short)), file))
    assert words[:3] == ["curl", "-H", "Content-Type: application/json"]
    assert words[3:] == ["-d", short.decode(), "http://127.0.0.1:9/invocations"]
    assert not list(tmp_path.iterdir())
    words = _typed(_how_to_ask(cast("RunningImage", Asked(middle := _row(4))), file))
    assert json.loads(words[4]) == json.loads(middle) and not list(tmp_path.iterdir())
    long = _row(40)
    words = _typed(_how_to_ask(cast("RunningImage", Asked(long)), file))
    assert words[-2] == "@request.json" and file.read_bytes() == long
    words = _typed(_how_to_ask(cast("RunningImage", Asked(short)), file, token=True))
    assert "Authorization: Bearer $KBUILD_TOKEN" in words
    assert "without an example" in _how_to_ask(cast("RunningImage", Asked(None)), tmp_path / "x")[0]


class Client:
    """A served image that ends by itself after a few looks, or runs until a signal comes."""

    url, reference = "http://127.0.0.1:8080", SimpleNamespace(familiar="till:3")

    def __init__(self, looks: int | None) -> None:
        self.looks, self.running = looks, self

    def describe(self) -> str:
        return "process 7"

    def logs(self) -> str:
        return "words\nit broke\n"

    def log_command(self) -> str:
        return "tail -f log"

    def alive(self) -> bool:
        if self.looks is None:
            os.kill(os.getpid(), signal.SIGTERM)
            return True
        self.looks -= 1
        return self.looks > 0


@pytest.mark.parametrize("looks", [None, 2])
def test_it_serves_until_a_signal_or_its_own_end(
    looks: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    stopped = []

    @contextmanager
    def run(image: object, asked: object, session: object) -> Iterator[Client]:
        try:
            yield Client(looks)
        finally:
            stopped.append(image)

    monkeypatch.setattr("kbuild.cli.run.run", run)
    monkeypatch.setattr("kbuild.cli.run.read_example", lambda running: b'{"inputs": [1]}')
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        if looks is None:
            command.main(["image:1"], standalone_mode=False)
        else:
            with pytest.raises(ContainerFailed, match="stopped by itself: words\nit broke"):
                command.main(["image:1"], standalone_mode=False)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    told = capsys.readouterr()
    assert told.out == "http://127.0.0.1:8080\n" and stopped == ["image:1"]
    assert "process 7 serves till:3; Ctrl-C stops it" in told.err
    assert "what the server writes: tail -f log" in told.err, "a model's own error is nowhere else"
    assert "    -d '{\"inputs\": [1]}' \\\n    http://127.0.0.1:8080/invocations\n" in told.err


@pytest.mark.parametrize("given", [["KBUILD_TOKEN=s3cret", "A=1"], ["KBUILD_TOKENS=1", "A=KBUILD_TOKEN"], []])
def test_what_is_told_to_be_typed_is_let_in_by_a_server_with_a_token(
    given: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the variable's name, never by what it holds: somebody may look on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("kbuild.cli.run.run", contextmanager(lambda *_, **__: iter([Client(None)])))
    monkeypatch.setattr("kbuild.cli.run.read_example", lambda running: b'{"inputs": [1]}')
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        command.main(["image:1", *(word for each in given for word in ("--variable", each))], standalone_mode=False)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    told = capsys.readouterr().err
    asks = given[:1] == ["KBUILD_TOKEN=s3cret"]
    assert told.count('-H "Authorization: Bearer $KBUILD_TOKEN"') == asks and "s3cret" not in told


def test_a_variable_without_a_value_is_this_shells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KBUILD_TOKEN", "s3cret")
    monkeypatch.delenv("KBUILD_QUEUE", raising=False)
    given = []

    @contextmanager
    def run(image: object, asked: RunOptions, session: object) -> Iterator[Client]:
        given.append(asked.variables)
        yield Client(None)

    monkeypatch.setattr("kbuild.cli.run.run", run)
    monkeypatch.setattr("kbuild.cli.run.read_example", lambda running: b'{"inputs": [1]}')
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        command.main(["image:1", "--variable", "KBUILD_TOKEN"], standalone_mode=False)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert given == [{"KBUILD_TOKEN": "s3cret"}]
    for typed, told in (
        ("KBUILD_QUEUE", "KBUILD_QUEUE is not set here"),
        ("=5", "'=5' names no variable"),
        ("a b=5", "'a b=5' names no variable"),
        ("KBUILD_PORT=80", "KBUILD_PORT is for --port to say"),
        ("PORT=80", "PORT is for --port to say"),
        ("KBUILD_HOST=::", "KBUILD_HOST is for --port to say"),
        ("KBUILD_TLS_CERT=c.pem", "KBUILD_TLS_CERT"),
    ):
        result = CliRunner().invoke(command, ["image:1", "--variable", typed])
        assert result.exit_code == 2 and told in " ".join(result.stderr.split()), (typed, result.stderr)
