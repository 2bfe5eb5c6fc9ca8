from __future__ import annotations

import asyncio
import gzip
import json
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

import asgi
import models
import pytest

from kbuild.answers import Tolerance
from kbuild.serving.answer.model import ServedModel
from kbuild.serving.answer.reply import Reply
from kbuild.serving.answer.warmup import warm_up

JSON = {"content-type": "application/json"}
ROW = json.dumps({"dataframe_records": [{"a": 1.5, "b": 2.5, "c": 3}]}).encode()


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    return models.make_model("numbers", tmp_path)


def slow_app(loaded: Any, folder: Path, work: Any, **changes: Any) -> Any:
    """Our app around a model that does ``work`` for an answer."""
    app = asgi.serve(loaded, folder, **changes)

    def answer(body: bytes, content_type: str) -> Reply:
        return Reply(status=200, body=work(body))

    old = app._model
    app._model = ServedModel(facts=old.facts, app=old.app, fast=None, slow=answer)
    return app


def ask(app: Any, *args: Any, **kwargs: Any) -> asgi.Answer:
    return asyncio.run(asgi.call(app, *args, **kwargs))


def test_nothing_is_predicted_and_nothing_healthy_before_the_model_is_warm(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path)
    app.ready = False
    for method, path in (("GET", "/readyz"), ("GET", "/health"), ("GET", "/ping"), ("POST", "/invocations")):
        status, headers, _ = ask(app, method, path, ROW, JSON)
        assert (status, headers["retry-after"]) == (503, "1")
    assert ask(app, "GET", "/livez")[0] == 200


def test_one_worker_alone_does_not_make_a_container_ready(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path, workers=2)
    assert ask(app, "GET", "/readyz")[0] == 503
    app._metrics.use_slot(1)
    app._metrics.set_ready()
    assert ask(app, "GET", "/readyz")[0] == 200


def test_lifespan_warms_the_model_up(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path)
    app.ready = False

    async def live() -> None:
        messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        sent: list[str] = []

        async def send(message: dict[str, str]) -> None:
            sent.append(message["type"])

        await messages.put({"type": "lifespan.startup"})
        task = asyncio.create_task(app({"type": "lifespan"}, messages.get, send))
        while not app.ready:
            await asyncio.sleep(0.01)
        await messages.put({"type": "lifespan.shutdown"})
        await task
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(asyncio.wait_for(live(), 10))


@pytest.mark.parametrize("headers", [JSON, {**JSON, "content-length": "5"}])
def test_a_body_above_the_limit_is_413(loaded: Any, tmp_path: Path, headers: dict[str, str]) -> None:
    app = asgi.serve(loaded, tmp_path, max_body=len(ROW) - 1)
    assert ask(app, "POST", "/invocations", ROW, headers, parts=3)[0] == 413
    assert app._gate.taken == 0
    assert ask(asgi.serve(loaded, tmp_path, max_body=len(ROW)), "POST", "/invocations", ROW, JSON, parts=3)[0] == 200


def test_a_body_of_two_lengths_is_400(loaded: Any, tmp_path: Path) -> None:
    two = {**JSON, "content-length": str(len(ROW)), "transfer-encoding": "chunked"}
    for path in ("/invocations", "/", "/other"):
        status, headers, _ = ask(asgi.serve(loaded, tmp_path), "POST", path, ROW, two)
        assert (status, headers["connection"]) == (400, "close")


@pytest.mark.parametrize("max_batch", [1, 4])
def test_json_that_is_nested_too_deeply_is_400_everywhere(loaded: Any, tmp_path: Path, max_batch: int) -> None:
    app = asgi.serve(loaded, tmp_path, max_batch=max_batch)
    for head in (b'{"dataframe_records":', b'{"params":', b'{"params":1,"inputs":', b""):
        body = head + b"[" * 200_000 + b"]" * 200_000
        assert ask(app, "POST", "/invocations", body, JSON)[0] == 400


@pytest.mark.slow
def test_a_packed_body_is_the_body(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path, max_body=2000)
    plain = ask(app, "POST", "/invocations", ROW, JSON)
    packed = {**JSON, "content-encoding": "GZIP"}
    half = len(ROW) // 2
    for body in (gzip.compress(ROW), gzip.compress(ROW[:half]) + gzip.compress(ROW[half:])):
        assert ask(app, "POST", "/invocations", body, packed, parts=3)[::2] == plain[::2]
    bomb = gzip.compress(b" " * 30_000_000)
    assert ask(app, "POST", "/invocations", gzip.compress(b" " * 2001), packed)[0] == 413
    assert len(bomb) > 2000 and ask(asgi.serve(loaded, tmp_path), "POST", "/invocations", bomb, packed)[0] == 400
    for body in (ROW, gzip.compress(ROW)[:-9], gzip.compress(ROW) + b"x", b""):
        status, _, told = ask(app, "POST", "/invocations", body, packed)
        assert (status, json.loads(told)["message"]) == (400, "Invalid input. The body is not a whole gzip stream.")
    status, headers, _ = ask(app, "POST", "/invocations", ROW, {**JSON, "content-encoding": "br"})
    assert (status, headers["accept-encoding"]) == (415, "gzip")
    assert app._gate.taken == 0


def test_a_worker_whose_threads_all_hang_says_so_and_is_replaced(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, replaced = threading.Event(), threading.Event()
    monkeypatch.setattr("kbuild.serving.watch.watchdog._BEAT", 0.01)
    monkeypatch.setattr("kbuild.serving.http.asgi._PROBED", 0.3)
    app = slow_app(loaded, tmp_path, lambda body: gate.wait(20) and body, threads=2, timeout=0.1, hung=0.5)
    app._replace_me = replaced.set

    async def hang() -> None:
        watching = asyncio.create_task(app._watch())
        assert (await asgi.call(app, "POST", "/invocations", ROW, JSON))[0] == 504
        await asyncio.sleep(0.8)
        assert (await asgi.call(app, "GET", "/livez"))[0] == 200, "one thread is free"
        assert app._metrics.silent_for(0) < 0.5
        assert (await asgi.call(app, "POST", "/invocations", ROW, JSON))[0] == 504
        async with asyncio.timeout(10):
            while (await asgi.call(app, "GET", "/livez"))[0] == 200:
                await asyncio.sleep(0.02)
        assert not replaced.is_set(), "a probe has time to see it"
        answers = [await asgi.call(app, "GET", path) for path in ("/livez", "/readyz", "/health")]
        assert [answer[0] for answer in answers] == [503] * 3
        assert app._metrics.silent_for(0) == math.inf
        await asyncio.wait_for(watching, 10)
        gate.set()

    asyncio.run(hang())
    assert replaced.is_set()


def test_a_full_server_says_so_and_recovers(loaded: Any, tmp_path: Path) -> None:
    gate = threading.Event()
    app = slow_app(loaded, tmp_path, lambda body: gate.wait(10) and body, threads=1, queue=1)

    async def crowd() -> None:
        waiting = [asyncio.create_task(asgi.call(app, "POST", "/invocations", ROW, JSON)) for _ in range(2)]
        await asyncio.sleep(0.05)
        status, headers, body = await asgi.call(app, "POST", "/invocations", ROW, JSON)
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body)["error_code"] == "TEMPORARILY_UNAVAILABLE"
        gate.set()
        assert [answer[0] for answer in await asyncio.gather(*waiting)] == [200, 200]
        await asyncio.sleep(0.05)
        assert app._gate.taken == 0
        assert (await asgi.call(app, "POST", "/invocations", ROW, JSON))[0] == 200

    asyncio.run(crowd())


def test_what_timed_out_keeps_its_place_and_what_waited_never_runs(loaded: Any, tmp_path: Path) -> None:
    gate, ran = threading.Event(), []

    def work(body: bytes) -> bytes:
        ran.append(body)
        gate.wait(10)
        return body

    app = slow_app(loaded, tmp_path, work, threads=1, queue=1, timeout=0.2)

    async def hang() -> None:
        tasks = [asyncio.create_task(asgi.call(app, "POST", "/invocations", b"%d" % n, JSON)) for n in range(2)]
        answers = await asyncio.gather(*tasks)
        assert [(answer[0], answer[2]) for answer in answers] == [(504, b"Request processing time exceeded limit")] * 2
        await asyncio.sleep(0.05)
        assert app._gate.taken == 1
        gate.set()
        await asyncio.sleep(0.1)
        assert (app._gate.taken, ran) == (0, [b"0"])

    asyncio.run(hang())


def test_a_client_that_does_not_finish_is_408(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path, timeout=0.1)

    async def stall() -> int:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if sent:
                await asyncio.sleep(60)
            sent.append({})
            return {"type": "http.request", "body": b"{", "more_body": True}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        await app({"type": "http", "method": "POST", "path": "/invocations", "headers": headers}, receive, send)
        return int(sent[1]["status"])

    assert asyncio.run(stall()) == 408
    assert app._gate.taken == 0


def test_a_token_is_asked_for_everywhere_but_at_the_probes(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path, token="s3cret")  # noqa: S106
    for method, path in (("POST", "/invocations"), ("GET", "/"), ("GET", "/metrics"), ("GET", "/version")):
        assert ask(app, method, path, ROW, {**JSON, "authorization": "Bearer wrong"})[0] == 401
        assert ask(app, method, path, ROW, JSON)[1]["www-authenticate"] == "Bearer"
        assert ask(app, method, path, ROW, {**JSON, "authorization": "Bearer s3cret"})[0] == 200
    assert all(ask(app, "GET", path)[0] == 200 for path in ("/livez", "/readyz", "/ping", "/health"))


def test_errors_of_the_model_show_no_code_unless_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = models.make_model("mixed", tmp_path)
    body = json.dumps({"dataframe_records": [{"x": 1.5, "n": 13, "flag": True, "text": "a"}]}).encode()
    status, _, text = ask(asgi.serve(loaded, tmp_path), "POST", "/invocations", body, JSON)
    assert status == 400
    assert b"Traceback" not in text
    assert "13 is not served" in caplog.records[-1].fields["traceback"]  # type: ignore[attr-defined]
    assert b"Traceback" in ask(asgi.serve(loaded, tmp_path, stack_traces=True), "POST", "/invocations", body, JSON)[2]


def test_json_nested_too_deeply_is_refused(loaded: Any, tmp_path: Path) -> None:
    assert ask(asgi.serve(loaded, tmp_path), "POST", "/invocations", b"[" * 100_000, JSON)[0] == 400


def test_numbers_of_thousands_of_digits_are_refused(loaded: Any, tmp_path: Path) -> None:
    assert ask(asgi.serve(loaded, tmp_path), "POST", "/invocations", b"9" * 10_000, JSON)[0] == 400


def test_no_content_type_is_415(loaded: Any, tmp_path: Path) -> None:
    assert ask(asgi.serve(loaded, tmp_path), "POST", "/invocations", ROW)[0] == 415


def test_request_ids_are_kept_when_they_are_harmless(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path)
    assert ask(app, "GET", "/version", b"", {"x-request-id": "abc-1"})[1]["x-request-id"] == "abc-1"
    assert ask(app, "GET", "/version", b"", {"x-request-id": "a b"})[1]["x-request-id"] != "a b"
    assert ask(app, "GET", "/version")[1]["x-content-type-options"] == "nosniff"


def test_metrics_count_what_happened(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path)
    ask(app, "POST", "/invocations", ROW, JSON)
    ask(app, "POST", "/invocations", b"{", JSON)
    status, headers, body = ask(app, "GET", "/metrics")
    lines = body.decode().splitlines()
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'http_requests_total{handler="invocations",status="200"} 1' in lines
    assert 'http_requests_total{handler="invocations",status="400"} 1' in lines
    assert 'http_request_duration_seconds_bucket{handler="invocations",le="+Inf"} 2' in lines
    assert "kbuild_fast_answers_total 1" in lines
    assert "http_requests_in_progress 0" in lines


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/ping", "/health"])
def test_health_is_told_to_head_too(loaded: Any, tmp_path: Path, path: str) -> None:
    assert ask(asgi.serve(loaded, tmp_path), "HEAD", path)[::2] == (200, b"")


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/docs", "/openapi.json", "/metadata", "/metrics"])
def test_another_method_is_405(loaded: Any, tmp_path: Path, path: str) -> None:
    status, headers, _ = ask(asgi.serve(loaded, tmp_path), "DELETE", path)
    assert (status, headers["allow"].partition(",")[0]) == (405, "GET")


def test_metadata_tells_what_is_served(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_LOCK_DIGEST", "sha256:1")
    told = json.loads(ask(asgi.serve(loaded, tmp_path), "GET", "/metadata")[2])
    assert told["lock_digest"] == "sha256:1"
    assert [column["name"] for column in told["signature"]["inputs"]] == ["a", "b", "c"]


def with_example(app: Any, recorded: bytes | None, **facts: Any) -> ServedModel:
    from dataclasses import replace

    old = app._model
    return ServedModel(
        facts=replace(old.facts, example=ROW, recorded=recorded, **facts), app=old.app, fast=old.fast, slow=old.slow
    )


def test_warm_up_compares_with_training(loaded: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = asgi.serve(loaded, tmp_path)
    recorded = ask(app, "POST", "/invocations", ROW, JSON)[2]
    assert warm_up(with_example(app, recorded)) and not caplog.records
    assert warm_up(with_example(app, None)) and not caplog.records
    assert not warm_up(with_example(app, b'{"predictions": []}'))
    assert "does not predict what it did in training" in caplog.text


def test_warm_up_takes_the_models_own_tolerance(loaded: Any, tmp_path: Path) -> None:
    app = asgi.serve(loaded, tmp_path)
    recorded = ask(app, "POST", "/invocations", ROW, JSON)[2]
    near = re.sub(rb"\d+\.\d+", lambda match: str(float(match[0]) * 1.01).encode(), recorded)
    assert near != recorded
    assert not warm_up(with_example(app, near))
    assert warm_up(with_example(app, near, tolerance=Tolerance.from_json({"rtol": 0.02})))


@pytest.mark.slow
def test_many_at_a_time_get_each_their_own(tmp_path: Path) -> None:
    app = asgi.serve(models.make_model("mixed", tmp_path), tmp_path, threads=4, queue=300)

    async def crowd() -> None:
        async def one(number: int) -> None:
            row = {"x": float(number), "n": number + 20, "flag": True, "text": str(number)}
            body = json.dumps({"dataframe_records": [row], "params": {"times": number}}).encode()
            status, _, text = await asgi.call(app, "POST", "/invocations", body, JSON)
            (told,) = json.loads(text)["predictions"]
            assert status == 200 and told["text"] == str(number) and told["params"] == f"2.0 {number} 'é'"

        await asyncio.gather(*(one(number) for number in range(200)))

    begun = time.monotonic()
    asyncio.run(crowd())
    assert time.monotonic() - begun < 30
