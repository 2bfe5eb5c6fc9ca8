"""A server span for each request, where OpenTelemetry's own environment variables ask for it.

Variables: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ (the SDK reads samplers,
resource, propagators and batching by itself); attributes: https://opentelemetry.io/docs/specs/semconv/http/http-spans/.
Without those variables nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from kbuild.serving.watch.logs import LOGGER

_log = logging.getLogger(LOGGER)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_ROUTES = frozenset(
    ("/", "/invocations", "/ping", "/health", "/livez", "/readyz", "/version", "/metadata", "/metrics", "/docs",
     "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready")
)  # fmt: skip
_MODEL = re.compile(r"^/v2/models/[^/]+(?:/versions/[^/]+)?(/ready|/infer)?$")


def is_asked_for(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the variables ask for traces."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    return bool(exporter) or any(environment.get(name, "").strip() for name in _ENDPOINTS)


def start_telemetry(environment: Mapping[str, str] = os.environ) -> Telemetry | None:
    """Started in the process that serves, since exporters have threads; None where nothing asks for it.

    What is asked for and cannot be had is logged, and the model served without it.
    """
    if not is_asked_for(environment):
        return None
    try:
        return Telemetry(environment)
    except ImportError as error:
        _log.error("no traces: the environment has not what they need: %s", error)
    except (LookupError, ValueError) as error:
        _log.error("no traces: %s", error)
    return None


class Telemetry:
    """Spans on their way to where the variables say. Raises ImportError, LookupError and ValueError, see above."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._trace = trace
        self._extract = propagate.extract
        # What is given here would count more than what the variables say.
        name = {} if _is_named(environment) else {"service.name": "kbuild"}
        self._provider = TracerProvider(resource=Resource.create(name))
        self._provider.add_span_processor(BatchSpanProcessor(_make_exporter(environment)))
        self._tracer = self._provider.get_tracer("kbuild.serving")

    def begin(self, scope: Mapping[str, Any], request_id: str) -> Any:
        """The span of a request, a child of the caller's where the request tells of one."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        known = method in _METHODS
        attributes: dict[str, Any] = {
            "http.request.method": method if known else "_OTHER",
            "url.path": path,
            "url.scheme": scope.get("scheme", "http"),
            "http.response.header.x-request-id": [request_id],
        }
        if not known:
            attributes["http.request.method_original"] = method
        name = method if known else "HTTP"
        # The names of models are no part of a route.
        route = _MODEL.sub(r"/v2/models/{model}\1", path)
        if path in _ROUTES or route != path:
            attributes["http.route"] = route
            name = f"{name} {route}"
        if "user-agent" in headers:
            attributes["user_agent.original"] = headers["user-agent"]
        if scope.get("http_version"):
            attributes["network.protocol.version"] = scope["http_version"]
        for end in ("server", "client"):
            if scope.get(end):
                attributes[f"{end}.address"], attributes[f"{end}.port"] = scope[end][:2]
        context = self._extract(headers)
        return self._tracer.start_span(name, context, kind=self._trace.SpanKind.SERVER, attributes=attributes)

    def end(self, span: Any, status: int) -> None:
        """End the span of a request that was answered with ``status``; 0 where nobody was there to be answered."""
        if status:
            span.set_attribute("http.response.status_code", status)
        if status == 0 or status >= 500:
            span.set_attribute("error.type", str(status or "disconnected"))
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))
        span.end()

    def describe(self, span: Any) -> dict[str, str]:
        """The ids of a span, for a line of the log."""
        context = span.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def close(self) -> None:
        """Send what is left, as long as the exporter's own deadline; blocks."""
        self._provider.shutdown()


def _is_named(environment: Mapping[str, str]) -> bool:
    return "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "") or "OTEL_SERVICE_NAME" in environment


def _make_exporter(environment: Mapping[str, str]) -> Any:
    """The exporter that ``OTEL_TRACES_EXPORTER`` names: one that is installed under that name, or our own OTLP."""
    from importlib.metadata import entry_points

    name = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", ""))
    if name == "otlp" and protocol.strip() in ("", "http/protobuf"):
        from kbuild.serving.watch.otlp import OtlpExporter

        return OtlpExporter(environment)
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        return found.load()()
    raise LookupError(f"no exporter {name!r} {f'for {protocol} ' if protocol else ''}is installed")
