"""Servers that refuse, are too old, busy, untrusted or not there; answered by a real HTTP server on this machine."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from listening import listening
from mlflow import MlflowClient
from mlflow.utils import request_utils

from kbuild.doctor import checks
from kbuild.errors import ConfigurationError, TrackingRefused, TrackingUnavailable
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import open_store
from kbuild.tracking import bounded_client
from kbuild.tracking.preflight import check_server, make_error, one_line, without_userinfo

pytestmark = pytest.mark.filterwarnings("ignore")
Answer = tuple[int, str]


@contextmanager
def serving(
    answer: Callable[[str], Answer], certificate: tuple[Path, Path] | None = None
) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, text = answer(self.path)
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    with listening(server) as url:
        yield url.replace("http:", f"{scheme}:"), asked


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def mlflow_of(version: str) -> Callable[[str], Answer]:
    return lambda path: (200, version if path == "/version" else json.dumps({"experiments": []}))


def test_a_server_that_is_new_enough_is_taken() -> None:
    with serving(mlflow_of("3.1.4")) as (uri, _):
        check_server(uri, logs_models=True)


def test_a_server_without_logged_models_is_named_before_training_and_can_still_be_read() -> None:
    with serving(mlflow_of("2.22.0")) as (uri, _):
        with pytest.raises(TrackingUnavailable, match=r"is MLflow 2\.22\.0, which keeps no logged models"):
            check_server(uri, logs_models=True)
        check_server(uri)


@pytest.mark.parametrize(("version", "status"), [("2.22.0", "warn"), ("3.1.4", "ok")])
def test_the_doctor_tells_of_a_server_that_training_would_refuse(version: str, status: str) -> None:
    with serving(mlflow_of(version)) as (uri, _):
        (check,) = checks._tracking(SimpleNamespace(tracking=uri, environ={}))  # type: ignore[arg-type]
    assert (check.name, check.status) == ("tracking", status)
    assert ("is MLflow 2.22.0, which keeps no logged models" in check.detail) == (status == "warn")


@pytest.mark.parametrize(
    ("status", "user", "message"),
    [
        (401, None, r"asks for credentials \(401\)"),
        (401, "eve", r"does not take the credentials \(401\)"),
        (403, "eve", r"permissions of eve are missing"),
    ],
)
def test_missing_credentials_and_permissions_are_told_with_mlflows_variables(
    monkeypatch: pytest.MonkeyPatch, status: int, user: str | None, message: str
) -> None:
    if user is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with serving(lambda path: (status, "You are not authenticated.")) as (uri, _):
        store = MlflowStore(tracking_uri=uri)
        asks: list[Callable[[], object]] = [store.ping, lambda: store.read_run("f" * 32), store.registered]
        for ask in asks:
            with pytest.raises(TrackingRefused, match=message) as caught:
                ask()
            assert "MLFLOW_TRACKING_USERNAME" in str(caught.value.hint)
            assert "MLFLOW_TRACKING_TOKEN" in str(caught.value.hint)


def test_a_server_that_is_not_there_is_told_in_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        begin = time.monotonic()
        with pytest.raises(TrackingUnavailable, match="does not answer"):
            check_server(f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}", logs_models=True)
    assert time.monotonic() - begin < 15


def test_a_busy_server_is_asked_again() -> None:
    answers = iter([(503, ""), (503, ""), (200, "3.9.0")])
    with serving(lambda path: next(answers, (200, '{"experiments": []}'))) as (uri, asked):
        check_server(uri, logs_models=True)
    assert asked == ["/version"] * 3 + ["/api/2.0/mlflow/experiments/search?max_results=1"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "[Errno 28] No space left on device: '/srv/mlartifacts/1'"),
        (503, "(sqlite3.OperationalError) database or disk is full"),
        (500, 'could not extend file "base/5/16384": wrote only 4096 of 8192 bytes: Disk quota exceeded'),
    ],
)
def test_a_server_whose_disk_is_full_is_told_at_once(status: int, message: str) -> None:
    answer = json.dumps({"error_code": "INTERNAL_ERROR", "message": message})
    with serving(lambda path: (200, "3.9.0") if path == "/version" else (status, answer)) as (uri, asked):
        with pytest.raises(TrackingUnavailable, match="nothing can be written there") as caught:
            check_server(uri)
        assert message.rpartition(": ")[2][:30] in str(caught.value)
        begin, before = time.monotonic(), len(asked)
        with pytest.raises(TrackingUnavailable, match="nothing can be written there"):
            MlflowStore(tracking_uri=uri).read_run("f" * 32)
        assert time.monotonic() - begin < 10
        assert len(asked) - before <= 3


def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    with serving(mlflow_of("3.9.0"), (certificate, key)) as (uri, _):
        with pytest.raises(TrackingUnavailable, match=r"certificate .* is not trusted") as caught:
            check_server(uri)
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in str(caught.value.hint)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        check_server(uri)


def test_a_folder_that_a_newer_mlflow_refuses_is_named_with_the_ways_out() -> None:
    """MLflow 3.17: its own words are longer than a line, and the way out stands at their end."""
    said = f"The filesystem tracking backend {'x' * 400} set `MLFLOW_ALLOW_FILE_STORE=true` to opt out of this."
    error = make_error("file:///runs", ValueError(said))
    assert error.message.endswith("unless it is told to: file:///runs")
    assert "sqlite:///mlflow.db" in str(error.hint) and "MLFLOW_ALLOW_FILE_STORE=true" in str(error.hint)


@pytest.mark.parametrize("password", ["p@:/hunter2", "pa/hunter2", "p#hunter2", "p?hunter2", "p@/hunter 2"])
def test_a_password_that_ends_the_host_is_told_and_not_shown(password: str, tmp_path: Path) -> None:
    uri = f"http://admin:{password}@tracking.invalid:5000/mlflow"
    for ask in (
        lambda: check_server(uri),
        lambda: open_store(uri).choose("@latest", project=None),
        lambda: open_store(uri).fetch(ModelReference.parse("f" * 32), tmp_path),
        lambda: MlflowStore(tracking_uri=uri).read_run("f" * 32),
    ):
        with pytest.raises(ConfigurationError) as caught:
            ask()
        told = f"{caught.value.message} {caught.value.hint}"
        assert "hunter" not in told and "MLFLOW_TRACKING_PASSWORD" in told and "%40" in told


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9/a@b", "http://127.0.0.1:9/x?y=a@b", "http://u:p%40%2F@127.0.0.1:9", "http://[::1]:9/a@b",
        "http://u:p@q@127.0.0.1:9",
    ],
)  # fmt: skip
def test_other_uris_are_asked(uri: str) -> None:
    with pytest.raises(TrackingUnavailable):
        check_server(uri)


def test_of_a_text_no_part_of_a_password_is_left() -> None:
    assert without_userinfo("at http://me:p@ss@host:5/x@y") == "at http://host:5/x@y"


def test_a_server_that_died_is_told_by_its_address_and_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception) as raised:
        MlflowClient("http://me:secret@127.0.0.1:9").get_run("a" * 32)
    assert "Max retries exceeded" in str(raised.value)
    assert one_line(raised.value) == "http://127.0.0.1:9 does not answer: Connection refused"


def by_mlflow(uri: str) -> None:
    store = MlflowStore(tracking_uri=uri, reached=True)
    with store.speaking("x"):
        store.client().search_experiments()


@pytest.mark.parametrize("ask", [check_server, by_mlflow])
@pytest.mark.parametrize("status", [200, 302, 400])
def test_a_server_that_answers_without_end_is_cut_off(
    ask: Callable[[str], None], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's client reads all of it: one answer took gigabytes."""

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b"1" * (1 << 16))

        do_POST = do_GET

        def log_message(self, *args: object) -> None: ...

    monkeypatch.setattr(bounded_client, "_LARGEST", 1 << 20)
    request_utils._cached_get_request_session.cache_clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    with listening(server) as url, pytest.raises(TrackingUnavailable, match="more than 1 MiB"):
        ask(url)
    request_utils._cached_get_request_session.cache_clear()
