from __future__ import annotations

import socket

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
