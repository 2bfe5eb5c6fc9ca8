from __future__ import annotations

import asyncio
import gzip
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import asgi
import models
import pytest

from kbuild.serving.watch.telemetry import is_asked_for, start_telemetry

JSON = {"content-type": "application/json"}
ROW = json.dumps({"dataframe_records": [{"a": 1.5, "b": 2.5, "c": 3}]}).encode()
CALLER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-request-id": "mine"}


class Receiver:
    """A collector on 127.0.0.1 that keeps what it was sent, decoded."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.sent: list[Any] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.paths.append(self.path)
                receiver.headers.append(dict(self.headers))
                receiver.sent.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def spans(self) -> list[Any]:
        parts = [part for each in self.sent for part in each.resource_spans]
        return [span for part in parts for scope in part.scope_spans for span in scope.spans]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    made.close()


def attributes(values: Any) -> dict[str, Any]:
    found = {}
    for each in values:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


def ask(app: Any, *calls: tuple[Any, ...]) -> list[asgi.Answer]:
    async def talk() -> list[asgi.Answer]:
        return [await asgi.call(app, *each) for each in calls]

    answers = asyncio.run(talk())
    app._telemetry.close()
    return answers


def test_each_request_is_a_span_of_its_caller(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "scorer")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc, x-team=a")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path)
    with caplog.at_level(logging.INFO, "kbuild.serving.access"):
        answers = ask(
            app,
            ("POST", "/invocations", ROW, {**JSON, **CALLER, "user-agent": "tests"}),
            ("POST", "/invocations", b"{", JSON),
            ("GET", "/secret/path/1"),
            ("BREW", "/ping"),
        )
    assert [answer[0] for answer in answers] == [200, 400, 404, 405]
    assert receiver.paths == ["/v1/traces"]
    headers = {name.lower(): value for name, value in receiver.headers[0].items()}
    assert (headers["authorization"], headers["x-team"]) == ("Basic abc", "a")
    resource = attributes(receiver.sent[0].resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["deployment.environment"]) == ("scorer", "test")
    first, second, third, fourth = receiver.spans
    assert first.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert (first.parent_span_id.hex(), first.name) == ("b7ad6b7169203331", "POST /invocations")
    assert first.kind == first.SPAN_KIND_SERVER and first.end_time_unix_nano >= first.start_time_unix_nano > 0
    assert attributes(first.attributes) == {
        "http.request.method": "POST",
        "url.path": "/invocations",
        "url.scheme": "http",
        "http.route": "/invocations",
        "http.response.status_code": 200,
        "http.response.header.x-request-id": ["mine"],
        "user_agent.original": "tests",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": 80,
        "client.address": "127.0.0.1",
        "client.port": 9,
    }
    assert caplog.records[0].fields["trace_id"] == first.trace_id.hex()  # type: ignore[attr-defined]
    assert caplog.records[0].fields["span_id"] == first.span_id.hex()  # type: ignore[attr-defined]
    assert second.parent_span_id == b"" and second.trace_id != first.trace_id
    assert attributes(second.attributes)["http.response.header.x-request-id"] == [answers[1][1]["x-request-id"]]
    assert second.status.code == second.status.STATUS_CODE_UNSET
    # A path that anybody may make up is no name.
    assert third.name == "GET" and "http.route" not in attributes(third.attributes)
    assert fourth.name == "HTTP /ping" and attributes(fourth.attributes)["http.request.method_original"] == "BREW"


def test_an_answer_that_is_our_fault_is_an_error(receiver: Receiver, tmp_path: Path) -> None:
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path)
    app.ready = False
    ask(app, ("POST", "/invocations", ROW, JSON))
    (span,) = receiver.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert attributes(span.attributes)["error.type"] == "503"


@pytest.mark.parametrize(
    ("status", "fault"), [(0, "disconnected"), (200, None), (499, None), (500, "500"), (503, "503")]
)
def test_from_500_on_it_is_our_fault(receiver: Receiver, tmp_path: Path, status: int, fault: str | None) -> None:
    """As OpenTelemetry's conventions for HTTP servers have it: 4xx is the caller's."""
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path)
    scope = {"headers": [], "method": "GET", "path": "/ping"}
    app._telemetry.end(app._telemetry.begin(scope, "1"), status)
    app._telemetry.close()
    (span,) = receiver.spans
    assert attributes(span.attributes).get("error.type") == fault
    assert (span.status.code == span.status.STATUS_CODE_ERROR) == (fault is not None)


def test_a_receiver_that_is_gone_costs_nobody_an_answer(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.close()
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path)
    assert ask(app, ("POST", "/invocations", ROW, JSON))[0][0] == 200
    assert "1 spans were not sent" in caplog.text


@pytest.mark.parametrize(
    "answer", [b"not http\r\n\r\n", b"HTTP/1.1 302 Found\r\nlocation: %s/elsewhere\r\ncontent-length: 0\r\n\r\n"]
)
def test_what_a_receiver_must_not_answer_is_one_line_of_the_log(
    answer: bytes, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def do_anything(handler: Any) -> None:
        asked.append(handler.path)
        handler.rfile.read(int(handler.headers.get("content-length", 0)))
        handler.wfile.write(answer.replace(b"%s", receiver.url.encode()))

    for method in ("do_POST", "do_GET"):
        monkeypatch.setattr(receiver.server.RequestHandlerClass, method, do_anything, raising=False)
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path)
    assert ask(app, ("POST", "/invocations", ROW, JSON))[0][0] == 200
    # What headers hold, such as a token, goes to nobody else.
    assert asked == ["/v1/traces"]
    (record,) = caplog.records
    assert "1 spans were not sent" in record.message and record.exc_info is None


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
    ],
)
def test_it_is_on_only_where_the_variables_say_so(environment: dict[str, str], asked: bool) -> None:
    assert is_asked_for(environment) == asked


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "no exporter 'zipkin' is installed"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "is not an http or https url"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "for grpc is installed"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "no traces: "),
    ],
)
def test_what_cannot_be_had_is_one_line_of_the_log(
    environment: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert start_telemetry(environment) is None
    assert len(caplog.records) == 1 and reason in caplog.text


def test_without_the_sdk_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert start_telemetry({"OTEL_TRACES_EXPORTER": "otlp"}) is None
    assert "the environment has not what they need" in caplog.text


def test_off_it_imports_nothing() -> None:
    code = "import sys, kbuild.serving.watch.telemetry as t; assert t.start_telemetry({}) is None; "
    code += "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
