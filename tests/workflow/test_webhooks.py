"""Webhooks that come in: signed by MLflow's own code and by kbuild trigger's, and by nobody."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from kbuild.errors import ConfigurationError, SignatureRefused
from kbuild.trigger.event import TrainingEvent
from kbuild.trigger.signature import make_headers
from kbuild.workflow.fleet.receiver import listening, make_app, parse_address
from kbuild.workflow.fleet.webhooks import Doorkeeper, NotUnderstood, Replayed, check_mlflow, read_hint

SECRET = "whsec_c2hhcmVk"  # noqa: S105 - MLflow takes it as it is, Standard Webhooks as base64
NOW = 1_800_000_000
BODY = {"entity": "model_version", "action": "created", "timestamp": "", "data": {"name": "churn", "version": "3"}}


class Site:
    def __init__(self) -> None:
        self.hints: list[str | None] = []
        self.refused: list[str] = []
        self.url = ""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Site]:
    site = Site()
    app = make_app(
        Doorkeeper(secret=SECRET),
        hint=site.hints.append,
        state=lambda: {"waiting": 0},
        refuse=site.refused.append,
        clock=lambda: float(NOW),
    )
    with listening(app, ("127.0.0.1", 0)) as place:
        site.url = f"http://{place}"
        yield site


@pytest.fixture
def site(receiver: Site) -> Site:
    receiver.hints.clear()
    receiver.refused.clear()
    return receiver


def mlflow_headers(id: str, stamp: int, body: str, secret: str = SECRET) -> dict[str, str]:
    """As ``_generate_hmac_signature`` of ``mlflow/webhooks/delivery.py`` makes them; to import that takes seconds."""
    signed = hmac.digest(secret.encode(), f"{id}.{stamp}.{body}".encode(), "sha256")
    return {
        "X-MLflow-Delivery-Id": id,
        "X-MLflow-Timestamp": str(stamp),
        "X-MLflow-Signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def test_a_signature_that_mlflow_made_is_right() -> None:
    """Made by MLflow 3.17.2."""
    headers = {
        "X-MLflow-Delivery-Id": "3f2a91c0-0000-4000-8000-000000000000",
        "X-MLflow-Timestamp": "1800000000",
        "X-MLflow-Signature": "v1,DMeZmpHPbVs1biUC5KbZsMjPZTwzgqYb0wNt0by32/k=",
    }
    given = {name.lower(): value for name, value in headers.items()}
    assert check_mlflow(SECRET, given, b'{"entity": "model_version"}', now=float(NOW), tolerance=1.0)


def post(site: Site, body: str, headers: dict[str, str], path: str = "/webhook") -> int:
    return requests.post(site.url + path, data=body.encode(), headers=headers, timeout=10).status_code


def test_what_mlflow_signs_is_taken_once(site: Site) -> None:
    body = json.dumps(BODY)
    headers = mlflow_headers("one", NOW - 299, body)
    assert post(site, body, headers) == 202
    assert post(site, body, headers, path="/") == 409
    assert site.hints == ["churn"]
    assert site.refused == ["refused a webhook from 127.0.0.1: this delivery was taken before"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"X-MLflow-Signature": "v1,AAAA"}, "the signature is not that"),
        ({"X-MLflow-Signature": "v1,\u00e4"}, "the signature is not that"),
        ({"X-MLflow-Delivery-Id": "another"}, "the signature is not that"),
        ({"X-MLflow-Delivery-Id": "a.b"}, "is not a delivery's id"),
        ({"X-MLflow-Timestamp": str(NOW + 1)}, "the signature is not that"),
        ({"X-MLflow-Timestamp": "1e9"}, "is not a number of seconds"),
        ({"X-MLflow-Timestamp": None}, "there is no header X-MLflow-Timestamp"),
        ({"X-MLflow-Signature": None}, "there is no header Webhook-Id"),
    ],
)
def test_what_is_forged_is_refused_and_told(site: Site, change: dict[str, Any], reason: str) -> None:
    body = json.dumps(BODY)
    headers = {k: v for k, v in {**mlflow_headers("two", NOW, body), **change}.items() if v is not None}
    coded: Any = {name: value.encode("latin-1") for name, value in headers.items()}
    assert post(site, body, coded) == 401
    assert site.hints == [] and len(site.refused) == 1 and reason in site.refused[0]


@pytest.mark.parametrize("stamp", [NOW - 301, NOW + 301])
def test_what_is_stale_is_refused(site: Site, stamp: int) -> None:
    body = json.dumps(BODY)
    assert post(site, body, mlflow_headers("three", stamp, body)) == 401
    assert "301 s off" in site.refused[0]


def test_another_secret_or_body_is_refused(site: Site) -> None:
    body = json.dumps(BODY)
    assert post(site, body, mlflow_headers("four", NOW, body, secret="guess")) == 401  # noqa: S106
    assert post(site, body + " ", mlflow_headers("four", NOW, body)) == 401
    assert post(site, "x" * (1 << 20) + "y", {}) == 413
    assert site.hints == []


@pytest.mark.parametrize("body", ["", "[]", "nonsense", "{}", '{"entity": "x", "data": 1}', "[" * 9000])
def test_a_signed_body_that_is_no_webhook_is_refused(site: Site, body: str) -> None:
    assert post(site, body, mlflow_headers(f"five-{len(body)}", NOW, body)) == 400


def test_what_kbuild_trigger_sends_is_a_hint_too(site: Site) -> None:
    event = TrainingEvent(
        run_id="r", model_id="m-1", model_uri="models:/m-1", model_name="churn", tracking_uri="http://x", project="p"
    )
    headers = make_headers(SECRET, event.id, NOW, event.body)
    assert post(site, event.body.decode(), headers) == 202
    assert post(site, event.body.decode(), headers) == 409
    assert post(site, event.body.decode(), make_headers(SECRET, event.id, NOW + 1, event.body)) == 202
    assert site.hints == [None, None]
    old = {name: value for name, value in headers.items() if name.startswith("X-Kbuild")}
    assert post(site, event.body.decode(), old) == 401, "the older headers have no id"


def test_it_says_how_it_is(site: Site) -> None:
    answer = requests.get(site.url + "/healthz", timeout=10)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "waiting": 0})
    assert requests.get(site.url + "/webhook", timeout=10).status_code == 405
    with (
        pytest.raises(ConfigurationError, match="cannot listen"),
        listening(
            None,
            parse_address(site.url.removeprefix("http://")),  # type: ignore[arg-type]
        ),
    ):
        pass


@pytest.mark.parametrize(
    ("found", "code"), [({}, 200), ({"status": "ok", "problem": "p"}, 200), ({"status": "failed", "problem": "p"}, 503)]
)
def test_what_was_found_is_what_a_probe_is_told(found: dict[str, object], code: int) -> None:
    """Whoever restarts what has failed goes by the code alone."""
    app = make_app(Doorkeeper(secret=SECRET), hint=print, state=lambda: found, refuse=print)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [], "query_string": b"", "client": None}
    asyncio.run(app(scope, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])) == (code, {"status": "ok", **found})


def test_a_sender_that_hangs_up_is_told_of_and_asks_for_nothing() -> None:
    refused: list[str] = []
    sent: list[Any] = []
    app = make_app(
        Doorkeeper(secret=SECRET), hint=lambda _: pytest.fail("nothing came"), state=dict, refuse=refused.append
    )

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/webhook", "headers": [], "query_string": b"", "client": None}
    asyncio.run(app(scope, receive, send))
    assert refused == ["refused a webhook from somebody: its body did not come"] and sent[0]["status"] == 408


def test_an_address_of_ipv6_is_listened_on_and_told_as_urls_have_it() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    app = make_app(Doorkeeper(secret=SECRET), hint=print, state=dict, refuse=print)
    with listening(app, ("::1", 0)) as place:
        assert place.startswith("[::1]:")
        assert requests.get(f"http://{place}/healthz", timeout=10).json() == {"status": "ok"}


def test_ids_are_forgotten_once_they_are_stale() -> None:
    keeper = Doorkeeper(secret=SECRET)
    body = json.dumps(BODY)
    for number in range(3):
        stamp = NOW + 1000 * number
        keeper.admit(mlflow_headers(f"id-{number}", stamp, body), body.encode(), now=float(stamp))
    assert list(keeper._seen) == ["id-2"]


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8090", ("127.0.0.1", 8090)), (":80", ("0.0.0.0", 80)), ("[::1]:1", ("::1", 1)), ("a.b:0", ("a.b", 0))],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["8090", "", "a:", "a:b", "::1:80", "[::1:80", "a:65536", "a:\u0661"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        parse_address(text)


def test_a_delivery_is_remembered_for_as_long_as_its_time_is_taken() -> None:
    """Signed ahead of this clock by all that is allowed, and sent again when it is late by all that is allowed."""
    keeper = Doorkeeper(secret=SECRET)
    allowed = 300  # seconds: Standard Webhooks' specification, "Verifying webhook authenticity"
    late, body = NOW + 2 * allowed, json.dumps({"entity": "model_version", "action": "created", "data": {}})
    headers = mlflow_headers("one", NOW + allowed, body)
    assert keeper.admit(headers, body.encode(), now=NOW) is None
    with pytest.raises(Replayed, match="this delivery was taken before"):
        keeper.admit(headers, body.encode(), now=late)
    with pytest.raises(SignatureRefused, match=r"the delivery is \d+ s off, more than \d+ s$"):
        keeper.admit(headers, body.encode(), now=late + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "hint", "refused"),
    [
        ("{", None, "the body is signed, but is not JSON"),
        ("[]", None, "the body is signed, but is not a webhook's"),
        ('{"entity": 3, "data": {}}', None, "of MLflow's registry or of kbuild trigger"),
        ('{"entity": "model_version", "data": []}', None, "of MLflow's registry or of kbuild trigger"),
        ('{"entity": "model_version", "data": {"name": "till"}}', "till", None),
        ('{"entity": "model_version", "data": {"name": ""}}', None, None),
        ('{"entity": "model_version", "data": {"name": 3}}', None, None),
        ('{"event": "model.logged"}', None, None),
    ],
)
def test_what_a_body_hints_at(body: str, hint: str | None, refused: str | None) -> None:
    if refused is None:
        assert read_hint(body.encode()) == hint
        return
    with pytest.raises(NotUnderstood) as caught:
        read_hint(body.encode())
    assert str(caught.value).endswith(refused)
