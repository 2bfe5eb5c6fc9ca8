"""The scoring server against the real MLflow server, under load, and in a real browser."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import requests
from engines import free_port, only_one, require
from servers import SERVING_TESTS, environ, ours, theirs
from tool import BIN, Trained, running

from kbuild.audit.finding import CheckResult, Finding, Severity
from kbuild.audit.policy import Policy
from kbuild.audit.report.page import page
from kbuild.audit.report.report import make_report
from kbuild.audit.report.sbom import make_sbom
from kbuild.audit.subject import Subject

JSON = {"Content-Type": "application/json"}
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1000,1100",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained_model(trained: Trained) -> Path:
    """The demo's model."""
    return trained.model


def ask(url: str, body: bytes, content_type: str) -> tuple[int, str | None, bytes]:
    """Status, content type and body, an error's stack trace left out."""
    answer = requests.post(f"{url}/invocations", data=body, headers={"Content-Type": content_type}, timeout=60)
    text = answer.content
    if answer.status_code >= 400 and b'"stack_trace"' in text:
        told = answer.json()
        del told["stack_trace"]
        text = json.dumps(told).encode()
    return answer.status_code, answer.headers.get("Content-Type"), text


REFUSED = ("params unknown", "params known and unknown")


def test_every_case_is_answered_as_mlflow_models_serve_answers(mixed: Path, tmp_path: Path) -> None:
    cases = [c for c in json.loads((SERVING_TESTS / "conformance.json").read_text("utf-8")) if c["model"] == "mixed"]
    assert len(cases) >= 150
    different = []
    with theirs(mixed, tmp_path) as their_url, ours(mixed, tmp_path, KBUILD_WORKERS="2") as (our_url, _):
        for case in cases:
            body = case["body"].encode("utf-8", "surrogatepass")
            one, other = (ask(url, body, case["content_type"]) for url in (their_url, our_url))
            if case["name"] in REFUSED:
                assert (one[0], other[0]) == (200, 400), "MLflow leaves out params that the model does not have"
            elif one != other:
                different.append((case["name"], one, other))
        for path in ("/ping", "/health", "/version", "/nope", "/invocations"):
            one, other = (requests.get(url + path, timeout=10) for url in (their_url, our_url))
            assert (one.status_code, one.content) == (other.status_code, other.content)
            assert one.headers.get("Content-Type") == other.headers.get("Content-Type")
    assert different == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_accepted_request_is_lost_when_it_is_stopped_under_load(mixed: Path, tmp_path: Path, workers: str) -> None:
    """Each answer belongs to its request; what was sent before the stop is answered."""
    wrong: list[str] = []
    answered = [0]
    with ours(mixed, tmp_path, KBUILD_WORKERS=workers) as (url, process):
        stop = threading.Event()

        def client(number: int) -> None:
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
            turn = 0
            while not stop.is_set():
                turn += 1
                row = {"x": 1.5, "n": 20, "flag": True, "text": f"{number}-{turn}"}
                body = json.dumps({"dataframe_records": [row], "params": {"times": number * 1000 + turn}})
                try:
                    connection.request("POST", "/invocations", body, JSON)
                    answer = connection.getresponse()
                    told = json.loads(answer.read())
                except (ConnectionError, http.client.HTTPException) as error:
                    # Closed while it waited for the next request: nothing of this one was taken.
                    if not stop.is_set():
                        wrong.append(repr(error))
                    break
                prediction = told["predictions"][0]
                if prediction["text"] != row["text"] or f" {number * 1000 + turn} " not in prediction["params"]:
                    wrong.append(f"{row} was answered {prediction}")
                answered[0] += 1
            connection.close()

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, number) for number in range(8)]
            time.sleep(2)
            stop.set()
            process.send_signal(signal.SIGTERM)
            for each in clients:
                each.result()
        assert process.wait(20) == 0
    assert wrong == []
    assert answered[0] > 50


def test_a_killed_worker_is_replaced_and_others_go_on(mixed: Path, tmp_path: Path) -> None:
    body = json.dumps({"dataframe_records": [{"x": 1.5, "n": 20, "flag": True, "text": "a"}]}).encode()
    with ours(mixed, tmp_path, KBUILD_WORKERS="2") as (url, process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        before = {*children.read_text(encoding="utf-8").split()}
        assert len(before) == 2
        os.kill(int(min(before)), signal.SIGKILL)
        time.sleep(2)
        after = {*children.read_text(encoding="utf-8").split()}
        assert len(after) == 2 and after != before
        assert {ask(url, body, "application/json")[0] for _ in range(20)} == {200}
    assert '"exit_code": -9' in (tmp_path / "ours.log").read_text()


def test_tls_and_token(mixed: Path, tmp_path: Path) -> None:
    require(shutil.which("openssl"), "openssl makes the certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    env = environ(
        KBUILD_MODEL=str(mixed), KBUILD_HOST="127.0.0.1", KBUILD_PORT=str(port), KBUILD_WORKERS="1",
        KBUILD_TLS_CERT=str(tmp_path / "cert"), KBUILD_TLS_KEY=str(tmp_path / "key"), KBUILD_TOKEN="s3cret",  # noqa: S106
    )  # fmt: skip
    url = f"https://127.0.0.1:{port}"
    healthy = [BIN / "python", "-m", "kbuild.serving.watch.healthcheck"]
    with running([BIN / "python", "-m", "kbuild.serving"], tmp_path / "log", env=env):
        deadline = time.monotonic() + 60
        while subprocess.run(healthy, env=env).returncode != 0:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        certificate = str(tmp_path / "cert")
        headers = {"Authorization": "Bearer s3cret"}
        assert requests.get(f"{url}/version", headers=headers, verify=certificate, timeout=10).status_code == 200
        assert requests.get(f"{url}/version", verify=certificate, timeout=10).status_code == 401


def _install_chromium() -> None:
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return
    require(os.geteuid() == 0 and shutil.which("apt-get"), "installing Chromium takes root and Debian")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = ["chromium", "chromium-driver", "fonts-dejavu-core"]
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-q", *words], env=env, capture_output=True, text=True)
        require(done.returncode == 0, f"apt-get {words[0]} failed: {done.stderr.strip()[-400:]}")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a running chromedriver; Chromium comes from Debian where it is not there."""
    with only_one():
        _install_chromium()
    port = free_port()
    with running(["chromedriver", f"--port={port}"], tmp_path_factory.mktemp("driver") / "log"):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                requests.get(f"{url}/status", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield url


@contextmanager
def browser(driver: str, profile: Path) -> Iterator[Any]:
    """A new window, called with method, path and body of a command (https://www.w3.org/TR/webdriver2/).

    It gives the command's value, None for an element of a page that is gone.
    """
    chrome = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={profile}"]}
    wanted = {"browserName": "chrome", "goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
    made = requests.post(f"{driver}/session", json={"capabilities": {"alwaysMatch": wanted}}, timeout=60).json()
    session = f"{driver}/session/{made['value']['sessionId']}"

    def command(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = requests.request(method, session + path, json=body if method == "POST" else None, timeout=60)
        value = answer.json()["value"]
        # Chromium says the second of an element of a page that is just going.
        gone = ("stale element reference", "does not belong to the document")
        assert answer.ok or any(text in str(value) for text in gone), answer.text
        return value if answer.ok else None

    try:
        yield command
    finally:
        requests.delete(session, timeout=30)


def test_the_page_of_an_audit_is_filtered_in_a_browser(driver: str, tmp_path: Path) -> None:
    """And the browser has nothing to complain of: no script of another, nothing to load."""
    names: list[tuple[str, Severity, str]] = [
        ("jinja2", "high", "vulnerabilities"),
        ("six", "medium", "drift"),
        ("numpy", "critical", "lock"),
    ]
    found = [
        Finding(id=f"F-{name}", check=check, severity=severity, where=f"pip:{name}", evidence="<b>e", remedy="r")
        for name, severity, check in names
    ]
    subject = Subject(reference="models:/<i>m</i>/1", kind="model")
    result = CheckResult(check="lock", findings=tuple(found))
    report = make_report(subject, [result], Policy(), today=date(2026, 11, 28), fail_on="low")
    (tmp_path / "audit.html").write_text(page([(report, json.loads(make_sbom(subject, report)))], "findings"))
    with browser(driver, tmp_path / "profile") as do:
        do("POST", "/url", {"url": (tmp_path / "audit.html").as_uri()})

        def shown() -> list[str]:
            script = (
                "return [...document.querySelectorAll('tr.finding')].filter(r => r.offsetHeight).map(r => r.innerText)"
            )
            rows = do("POST", "/execute/sync", {"script": script, "args": []})
            return [name for name, *_ in names if any(name in row for row in rows)]

        def press(selector: str, keys: str | None = None) -> None:
            (element,) = do("POST", "/element", {"using": "css selector", "value": selector}).values()
            act, body = ("click", {}) if keys is None else ("value", {"text": keys})
            do("POST", f"/element/{element}/{act}", body)

        assert shown() == ["jinja2", "six", "numpy"]
        press("input[value=critical]")
        assert shown() == ["jinja2", "six"]
        press("input[value=drift]")
        assert shown() == ["six"]
        press("input[value=drift]")
        press("#words", "JINJA")
        assert shown() == ["jinja2"]
        assert do("POST", "/se/log", {"type": "browser"}) == []


def test_a_person_tries_the_model_in_a_browser(trained_model: Path, driver: str, tmp_path: Path) -> None:
    recorded = json.loads((trained_model / "recorded_prediction.json").read_text())["predictions"]
    with ours(trained_model, tmp_path, KBUILD_WORKERS="1") as (url, _), browser(driver, tmp_path / "profile") as do:

        def find(selector: str) -> str:
            (found,) = do("POST", "/element", {"using": "css selector", "value": selector}).values()
            return f"/element/{found}"

        def submit(button: str) -> None:
            page = find("html")
            do("POST", f"{find(button)}/click", {})
            deadline = time.monotonic() + 20
            while do("GET", f"{page}/name") is not None:
                assert time.monotonic() < deadline, "the form was not sent"
                time.sleep(0.05)

        do("POST", "/url", {"url": url})
        submit("#row button")
        assert do("GET", f"{find('#result tbody tr')}/text") == f"{recorded[0]['progression']} false"
        submit("#json button")
        rows = do("GET", f"{find('#result tbody')}/text").splitlines()
        assert rows == [f"{each['progression']} {str(each['high_risk']).lower()}" for each in recorded]
        field = find("input[name='input.age']")
        do("POST", f"{field}/clear", {})
        do("POST", f"{field}/value", {"text": "old"})
        submit("#row button")
        assert "age" in do("GET", f"{find('#result.error')}/text")
        (tmp_path / "page.png").write_bytes(base64.b64decode(do("GET", "/screenshot")))
        do("POST", "/url", {"url": f"{url}/docs"})
        assert "Scoring server" in do("GET", f"{find('h1')}/text")
        # Nothing was refused by the policy and nothing was missing; the wrong form's own 400 is meant.
        noise = [entry["message"] for entry in do("POST", "/se/log", {"type": "browser"})]
        assert [line for line in noise if "status of 400" not in line] == []
