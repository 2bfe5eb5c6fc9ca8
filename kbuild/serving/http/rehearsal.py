"""``python -m kbuild.serving.http.rehearsal ANSWER``: ask the model every kind of request, unserved.

Writes JSON to ANSWER: ``files``, what was read below the interpreter's prefix on the way; ``answers``, status, type
and body of each request; ``seconds`` of processor time from the start of the process to the first prediction. An image
without some of its packages must give the same answers as with all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import importlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_WRONG: dict[str, Any] = {"dataframe_split": {"columns": ["no such column"], "data": [[1]]}}
_PATHS = (("GET", "/ping"), ("GET", "/version"), ("GET", "/nowhere"), ("GET", "/invocations"), ("POST", "/invocations"))


def main() -> int:
    """Rehearse; returns the exit code."""
    opened: set[str] = set()
    sys.addaudithook(lambda event, values: _note(opened, values) if event == "open" else None)
    from kbuild.serving.answer.model import load_model
    from kbuild.serving.answer.reply import JSON
    from kbuild.serving.http import server  # noqa: F401  all that a server imports

    model = load_model(Path(os.environ["KBUILD_MODEL"]), import_mlflow="lazy")
    example = model.facts.example or b"{}"
    first, _ = model.answer(example, JSON)
    seconds = time.process_time()
    answers: list[Any] = [[first.status, first.content_type, first.body.decode("utf-8", "replace")]]
    for body, kind in _make_requests(example):
        reply = model.slow(body, kind)
        answers.append([reply.status, reply.content_type, reply.body.decode("utf-8", "replace")])
    answers += [asyncio.run(_ask(model.app, method, path, example)) for method, path in _PATHS]
    _load_servers(model.app)
    said = {"files": sorted(_below_prefix(opened | _modules() | _mapped())), "answers": answers, "seconds": seconds}
    Path(sys.argv[1]).write_text(json.dumps(said), encoding="utf-8")
    return 0


def _make_requests(example: bytes) -> list[tuple[bytes, str]]:
    """The example as JSON, CSV and Parquet, and what is wrong in several ways.

    Where the example is no table, one that does not fit is asked in its place: reading it loads as much.
    """
    made = [(example, "application/json")]
    made += [(body, "application/json") for body in (b"{", b"{}", b"[]", json.dumps(_WRONG).encode())]
    table = (json.loads(example) or {}).get("dataframe_split")
    if table is None or "columns" not in table:
        table = _WRONG["dataframe_split"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table["columns"], *table["data"]])
    made.append((text.getvalue().encode(), "text/csv"))
    made.append((_make_parquet(table), "application/vnd.apache.parquet"))
    return [*made, (b"1", "text/csv"), (b"1", "application/xml")]


def _make_parquet(table: dict[str, Any]) -> bytes:
    import pandas as pd

    try:
        written: bytes = pd.DataFrame(data=table["data"], columns=table["columns"]).to_parquet()
    except (ImportError, ValueError, TypeError):
        return b""  # nothing here writes it, or not this table; then it is one more wrong request
    return written


async def _ask(app: Any, method: str, path: str, body: bytes) -> list[Any]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9),
    }  # fmt: skip
    await app(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return [sent[0]["status"], path, text.decode("utf-8", "replace")]


def _load_servers(app: Any) -> None:
    """What is imported only while requests are served, and only where the environment asks for it."""
    import uvicorn

    for module in ("kbuild.serving.watch.otlp", "opentelemetry.propagate"):
        # Without OpenTelemetry's packages the server says so to who asks for traces.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    uvicorn.Config(app, loop="asyncio", lifespan="on", log_config=None).load()


def _note(opened: set[str], values: tuple[Any, ...]) -> None:
    if isinstance(values[0], str):
        opened.add(values[0])


def _modules() -> set[str]:
    return {str(file) for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}


def _mapped() -> set[str]:
    """Shared libraries, also those that no module is."""
    lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    return {parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6}


def _below_prefix(paths: set[str]) -> set[str]:
    start = f"{sys.prefix}/"
    return {path.removeprefix(start) for path in paths if path.startswith(start)}


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
