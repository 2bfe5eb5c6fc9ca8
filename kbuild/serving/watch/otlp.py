"""Spans sent as OTLP over HTTP, in protobuf; for images that have OpenTelemetry's SDK, as MLflow's do, but no exporter.

Format: https://opentelemetry.io/docs/specs/otlp/#otlphttp; variables:
https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

from __future__ import annotations

import gzip
import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from kbuild.serving.watch.logs import LOGGER

_log = logging.getLogger(LOGGER)


class _Stay(HTTPRedirectHandler):
    """Follows no redirection: what the headers hold is for one receiver, and what comes of it is no receipt."""

    def redirect_request(self, *args: Any) -> None:
        return None


class OtlpExporter(SpanExporter):
    """Posts spans to ``OTEL_EXPORTER_OTLP_ENDPOINT``; raises ValueError for variables that cannot be meant."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        base = _read(environment, "ENDPOINT").rstrip("/") or "http://localhost:4318"
        # The one for traces alone is taken as it is.
        self._url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip() or f"{base}/v1/traces"
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("OTEL_EXPORTER_OTLP_ENDPOINT is not an http or https url")
        self._headers = {"Content-Type": "application/x-protobuf", **_parse_headers(_read(environment, "HEADERS"))}
        self._timeout = float(_read(environment, "TIMEOUT") or 10)
        self._gzip = _read(environment, "COMPRESSION") == "gzip"
        if self._gzip:
            self._headers["Content-Encoding"] = "gzip"
        certificate = _read(environment, "CERTIFICATE")
        context = ssl.create_default_context(cafile=certificate) if certificate else None
        self._opener = build_opener(_Stay, HTTPSHandler(context=context))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them; what cannot be sent is logged and lost."""
        body = encode_spans(spans)
        request = Request(self._url, gzip.compress(body) if self._gzip else body, self._headers)  # noqa: S310  checked
        try:
            with self._opener.open(request, timeout=self._timeout):
                return SpanExportResult.SUCCESS
        except (HTTPException, OSError) as error:
            _log.warning("%d spans were not sent: %s", len(spans), getattr(error, "reason", error))
            return SpanExportResult.FAILURE


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """An ``ExportTraceServiceRequest`` of spans of one tracer."""
    first = spans[0]
    scope = first.instrumentation_scope
    told = ScopeSpans(spans=map(_encode, spans))
    if scope is not None:
        told.scope.CopyFrom(InstrumentationScope(name=scope.name, version=scope.version or ""))
    resource = Resource(attributes=_attributes(first.resource.attributes))
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[told])])
    return bytes(request.SerializeToString())


def _encode(span: ReadableSpan) -> Span:
    context, parent = span.context, span.parent
    return Span(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        trace_state=context.trace_state.to_header(),
        parent_span_id=parent.span_id.to_bytes(8, "big") if parent is not None else b"",
        name=span.name,
        # The SDK counts kinds from 0, the protocol from 1.
        kind=Span.SpanKind.Name(span.kind.value + 1),
        start_time_unix_nano=span.start_time or 0,
        end_time_unix_nano=span.end_time or 0,
        attributes=_attributes(span.attributes or {}),
        status=Status(
            code=Status.StatusCode.Name(span.status.status_code.value), message=span.status.description or ""
        ),
        flags=int(context.trace_flags),
    )


def _attributes(values: Mapping[str, Any]) -> Iterable[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def _value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list | tuple):
        return AnyValue(array_value=ArrayValue(values=map(_value, value)))
    return AnyValue(string_value=str(value))


def _read(environment: Mapping[str, str], name: str) -> str:
    """The variable for traces, else that for everything."""
    own = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") if name != "ENDPOINT" else None
    return (own or environment.get(f"OTEL_EXPORTER_OTLP_{name}") or "").strip()


def _parse_headers(text: str) -> dict[str, str]:
    """``key=value,key=value``, values percent-encoded, as in W3C Baggage."""
    pairs = [each.partition("=") for each in text.split(",") if each.strip()]
    return {key.strip(): unquote(value.strip()) for key, _, value in pairs}
