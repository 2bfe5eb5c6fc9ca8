"""Calling an ASGI app as a server does, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

from kbuild.serving.answer.mlflow_side import make_slow_path
from kbuild.serving.answer.model_facts import read_facts
from kbuild.serving.http.asgi import ServingApp
from kbuild.serving.http.server_settings import Settings
from kbuild.serving.watch.metrics import Metrics

Answer = tuple[int, dict[str, str], bytes]


async def call(
    app: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, parts: int = 1
) -> Answer:
    """Status, headers by lower-case name, and body."""
    size = max(1, -(-len(body) // parts))
    chunks = [body[n : n + size] for n in range(0, len(body), size)] or [b""]
    queue = [
        {"type": "http.request", "body": chunk, "more_body": n + 1 < len(chunks)} for n, chunk in enumerate(chunks)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if queue:
            return queue.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    named = {"content-length": str(len(body)), **(headers or {})} if method == "POST" else headers or {}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 9),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in named.items()],
    }
    await app(scope, receive, send)
    told = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:])


def make_settings(**changes: Any) -> Settings:
    """Defaults, but for what a test is about."""
    from pathlib import Path

    return Settings(**{"model": Path(), "host": "127.0.0.1", "port": 1, "log_level": "warning", **changes})


def serve(loaded: Any, folder: Any, **changes: Any) -> ServingApp:
    """Our app around a PyFuncModel, ready."""
    import mlflow.pyfunc.scoring_server

    from kbuild.serving.answer.fast import is_own, make_fast_path
    from kbuild.serving.answer.model import ServedModel, parameters_of

    facts = read_facts(loaded, folder)
    model = ServedModel(
        facts=facts,
        parameters=parameters_of(facts) if is_own(loaded) else None,
        app=mlflow.pyfunc.scoring_server.init(loaded),
        fast=make_fast_path(loaded),
        slow=make_slow_path(loaded, stack_traces=changes.get("stack_traces", False)),
    )
    settings = make_settings(**changes)
    metrics = Metrics(settings.workers)
    app = ServingApp(model, settings, metrics)
    app.ready = True
    metrics.set_ready()
    return app
