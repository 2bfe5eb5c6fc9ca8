"""The ASGI app: operations, the model's answers, and MLflow's own app for every other path.

ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import uuid4

from kbuild.serving.answer import reply as replies
from kbuild.serving.answer.batch import Answer, BatchRefused, make_batch_answers
from kbuild.serving.answer.batcher import Batcher
from kbuild.serving.answer.gate import Gate, GateFull, GateTimeout, Ticket
from kbuild.serving.answer.limits import Limits
from kbuild.serving.answer.model import ServedModel
from kbuild.serving.answer.reply import HTML, JSON, Reply
from kbuild.serving.answer.warmup import warm_up
from kbuild.serving.http.body import (
    Gone,
    NotPacked,
    Receive,
    TooLarge,
    declared_length,
    drop_body,
    read_body,
    unpack,
)
from kbuild.serving.http.sending import Scope, Send, pass_on, send_reply
from kbuild.serving.http.server_settings import Settings, limits_of
from kbuild.serving.oip.endpoints import INFER, LIVE, OpenInference, in_protocol
from kbuild.serving.oip.question import InferRequest
from kbuild.serving.pages.about import make_info, make_metadata
from kbuild.serving.pages.page import ModelPages
from kbuild.serving.watch.logs import LOGGER
from kbuild.serving.watch.metrics import CONTENT_TYPE, Metrics
from kbuild.serving.watch.telemetry import start_telemetry
from kbuild.serving.watch.watchdog import watch

_log = logging.getLogger(LOGGER)
_access = logging.getLogger(f"{LOGGER}.access")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_PROBED = 2.0  # seconds for which a probe can meet a worker that hangs before it begins anew
_HEALTH = ("/livez", "/readyz", "/ping", "/health")
# Of the paths that are ours alone.
_METHODS = dict.fromkeys(("/", "/livez", "/readyz", "/docs", "/openapi.json", "/metadata", "/metrics"), "GET, HEAD")


class ServingApp:
    """One worker's app. It answers 503 until the model has predicted its own example."""

    def __init__(
        self, model: ServedModel, settings: Settings, metrics: Metrics, *, replace_me: Callable[[], None] | None = None
    ) -> None:
        self.ready = False
        self._hung = False
        self._replace_me = replace_me
        # A dense table of numbers takes at most four times what it takes as text: the two bytes of "1,".
        most = max(2**26, 4 * settings.max_body)
        counts = {"depth": settings.max_depth, "rows": settings.max_rows, "columns": settings.max_columns}
        self._limits = Limits(**counts, memory=most)
        self._model = replace(model, slow=self._limits.guard(model.slow))
        self._settings = settings
        self._metrics = metrics
        self._gate = Gate(threads=settings.threads, queue=settings.queue, tell=metrics.set_active)
        self._inference = OpenInference(model.facts, self._limits)
        self._site = ModelPages(model.facts, limits_of(settings))
        self._metadata = Reply(status=200, body=make_metadata(model.facts))
        self._info = make_info(model.facts)
        self._token = None if settings.token is None else f"Bearer {settings.token}".encode()
        self._tasks: list[asyncio.Task[None]] = []
        self._batcher: Batcher | None = None
        self._telemetry = start_telemetry()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.startup":
                self._tasks = [asyncio.create_task(self._warm()), asyncio.create_task(self._watch())]
            elif self._telemetry is not None:
                await asyncio.to_thread(self._telemetry.close)
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    async def _warm(self) -> None:
        # No deadline here: a slow first prediction is what warm-up is for.
        then = self._try_batches if self._settings.max_batch > 1 else None
        await self._gate.run(self._gate.enter(), lambda: warm_up(self._model, then), timeout=86400)
        self.ready = True
        self._metrics.set_ready()

    async def _watch(self) -> None:
        # The warm-up may take as long as it takes.
        await watch(self._metrics, lambda: self._gate.hung_for() if self.ready else 0.0, self._settings.hung)
        self._hung = True
        _log.error("no prediction has ended for %.0f s: this worker hangs", self._settings.hung)
        if self._replace_me is not None:
            await asyncio.sleep(_PROBED)
            self._replace_me()

    def _try_batches(self, done: Sequence[str]) -> None:
        try:
            answers = make_batch_answers(self._model, self._ask_model, self._limits, done)
        except BatchRefused as refused:
            _log.warning("requests are not put together for this model: %s", refused)
        else:
            size, delay = self._settings.max_batch, self._settings.max_delay
            self._batcher = Batcher(answers, self._gate, self._metrics, size=size, delay=delay)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex.encode()
        path = scope["path"]
        span = None if self._telemetry is None else self._telemetry.begin(scope, request_id.decode())
        status = 0
        try:
            reply = await self._reply(path, scope["method"], headers, receive)
            if reply is None:
                status = await pass_on(self._model.app, scope, receive, send, request_id)
            else:
                status = reply.status
                await send_reply(reply, scope["method"], send, request_id)
        except Gone:
            pass  # nobody is there to be answered
        finally:
            seconds = time.perf_counter() - begun
            self._metrics.count(_handler(path), status, seconds)
            traced = {}
            if self._telemetry is not None:
                self._telemetry.end(span, status)
                traced = self._telemetry.describe(span)
            if _access.isEnabledFor(logging.INFO):
                fields = {
                    "request_id": request_id.decode(),
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "seconds": round(seconds, 6),
                    **traced,
                }
                _access.info("request", extra={"fields": fields})

    async def _reply(self, path: str, method: str, headers: Mapping[bytes, bytes], receive: Receive) -> Reply | None:
        """The answer, None where it is MLflow's own app that answers."""
        if b"content-length" in headers and b"transfer-encoding" in headers:  # RFC 9112, 6.3: smuggling
            return replies.TWO_LENGTHS
        get = method in ("GET", "HEAD")
        if path in _HEALTH and get:
            return self._health(path)
        found = self._inference.find(path, method)
        if isinstance(found, str) and found != INFER:
            return self._inference.tell_health(found, self._health("/livez" if found == LIVE else "/readyz"))
        if self._token is not None and not hmac.compare_digest(headers.get(b"authorization", b""), self._token):
            return replies.UNAUTHORIZED if found is None else in_protocol(replies.UNAUTHORIZED)
        if isinstance(found, str):
            return in_protocol(await self._predict(headers, receive, None))
        if found is not None:
            return found
        if path == "/invocations" and method == "POST":
            if b"content-type" not in headers:
                return replies.UNSUPPORTED
            return await self._predict(headers, receive, headers[b"content-type"].decode("latin-1"))
        if path == "/" and get:
            return Reply(status=200, body=self._site.page, content_type=HTML, headers=self._site.headers)
        if path == "/docs" and get:
            return Reply(status=200, body=self._site.docs, content_type=HTML, headers=self._site.headers)
        if path == "/openapi.json" and get:
            return Reply(status=200, body=self._site.openapi)
        if path == "/metadata" and get:
            return self._metadata
        if path == "/metrics" and get:
            return Reply(status=200, body=self._metrics.render(self._info), content_type=CONTENT_TYPE)
        # Of the pages that FastAPI brings, this one loads its scripts from elsewhere.
        if path == "/redoc":
            return Reply(status=404, body=b'{"detail":"Not Found"}')
        if path in _METHODS:
            body = b'{"detail":"Method Not Allowed"}'
            return Reply(status=405, body=body, headers=(("allow", _METHODS[path]),))
        return None

    def _health(self, path: str) -> Reply:
        # MLflow's body for /ping and /health is a line feed.
        alive = Reply(status=200, body=b"\n")
        if self._hung:
            return replies.HUNG
        if path == "/livez" or (self.ready and self._metrics.all_ready()):
            return alive
        return replies.NOT_READY

    def _ask_model(self, body: bytes, content_type: str) -> tuple[Reply, bool]:
        # The short way takes no table but one of the signature's columns, so only its rows are counted before.
        if self._limits.is_large(body, content_type) and (refused := self._limits.check(body, content_type)):
            return refused, False
        return self._model.answer(body, content_type)

    def _ask_question(self, question: InferRequest) -> tuple[Reply, bool]:
        columns = question.columns
        if columns is None:
            return self._ask_model(question.as_json(), JSON)
        if refused := self._limits.check_size(len(next(iter(columns.values()))), len(columns)):
            return refused, False
        return self._model.answer_columns(columns, question.params, question.as_json)

    async def _answer(self, ticket: Ticket, body: bytes, content_type: str, timeout: float) -> Answer:
        if self._batcher is not None:
            return await self._batcher.ask(ticket, (body, content_type), timeout=timeout)
        work = partial(self._ask_model, body, content_type)
        return await self._gate.run(ticket, work, timeout=timeout)

    async def _infer(self, ticket: Ticket, body: bytes, headers: Mapping[bytes, bytes], timeout: float) -> Answer:
        """The same by the Open Inference Protocol."""
        if self._batcher is None:
            work = partial(self._inference.answer, body, headers, self._ask_question)
            return await self._gate.run(ticket, work, timeout=timeout)
        question: InferRequest | Reply | None = None
        try:
            question = await asyncio.to_thread(self._inference.read, body, headers)
        finally:
            if not isinstance(question, InferRequest):
                ticket.give_back()
        if isinstance(question, Reply):
            return question, False
        reply, short = await self._batcher.ask(ticket, (question.as_json(), JSON), timeout=timeout)
        return await asyncio.to_thread(self._inference.write, reply, question), short

    async def _predict(self, headers: Mapping[bytes, bytes], receive: Receive, content_type: str | None) -> Reply:
        """Of a body of this content type, or of one of the Open Inference Protocol (None)."""
        if not self.ready:
            return replies.NOT_READY
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b"gzip"):
            return replies.UNKNOWN_ENCODING
        limit, timeout = self._settings.max_body, self._settings.timeout
        deadline = time.monotonic() + timeout
        try:
            ticket = self._gate.enter()
        except GateFull:
            return replies.FULL
        handed_on = False
        try:
            if declared_length(headers) > limit:
                raise TooLarge(more=True)
            body = await asyncio.wait_for(read_body(receive, limit), timeout)
            if encoding == b"gzip":
                body = await asyncio.to_thread(unpack, body, limit)
            handed_on = True
            left = deadline - time.monotonic()
            if content_type is None:
                reply, short = await self._infer(ticket, body, headers, left)
            else:
                reply, short = await self._answer(ticket, body, content_type, left)
            if short:
                self._metrics.count_fast()
            return reply
        except TooLarge as error:
            ticket.give_back()  # nobody waits for a place because of what is dropped
            if error.more:
                await drop_body(headers, receive)
            return replies.too_large(limit)
        except NotPacked:
            return replies.NOT_GZIP
        except GateTimeout:
            return replies.TIMED_OUT
        except TimeoutError:
            return replies.SLOW_CLIENT
        finally:
            if not handed_on:
                ticket.give_back()


def _handler(path: str) -> str:
    if path == "/invocations" or (path.startswith("/v2/models/") and path.endswith("/infer")):
        return "invocations"
    if path in _HEALTH or path.startswith("/v2/health/"):
        return "health"
    return "page" if path in ("/", "/docs", "/openapi.json") else "other"
