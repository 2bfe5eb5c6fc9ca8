"""The scoring server against the real MLflow server, and under load."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from engines import free_port, require
from servers import SERVING_TESTS, environ, ours, theirs
from tool import BIN, Trained, running

JSON = {"Content-Type": "application/json"}


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


def test_tritonclient_gets_the_numbers_of_invocations(trained_model: Path, tmp_path: Path) -> None:
    """By the Open Inference Protocol, tensors in JSON and in binary."""
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
    from tritonclient.utils import InferenceServerException, triton_to_np_dtype

    split = json.loads((trained_model / "serving_input_example.json").read_text())["dataframe_split"]
    recorded = json.loads((trained_model / "recorded_prediction.json").read_text())["predictions"]
    with ours(trained_model, tmp_path, KBUILD_WORKERS="1") as (url, _):
        client = InferenceServerClient(url.removeprefix("http://"))
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("model")
        assert client.get_server_metadata()["name"] == "kbuild"
        described = client.get_model_metadata("model")
        (version,) = described["versions"]
        for binary in (True, False):
            inputs = []
            for number, each in enumerate(described["inputs"]):
                kind = each["datatype"]
                values = np.array([[row[number]] for row in split["data"]], triton_to_np_dtype(kind))
                inputs.append(InferInput(each["name"], [*values.shape], kind))
                inputs[-1].set_data_from_numpy(values, binary_data=binary)
            for asked in ({}, {"model_version": version, "request_id": "7"}):
                found = client.infer("model", inputs, **asked)
                assert found.get_response().get("id") == asked.get("request_id")
                for each in described["outputs"]:
                    assert found.as_numpy(each["name"]).dtype == triton_to_np_dtype(each["datatype"])
                    assert found.as_numpy(each["name"])[:, 0].tolist() == [row[each["name"]] for row in recorded]
        one = client.infer("model", inputs, outputs=[InferRequestedOutput("high_risk")], parameters={"decimals": 0})
        assert [each["name"] for each in one.get_response()["outputs"]] == ["high_risk"]
        with pytest.raises(InferenceServerException, match="Model other not found"):
            client.get_model_metadata("other")
        with pytest.raises(InferenceServerException, match="Did you mean decimals"):
            client.infer("model", inputs, parameters={"decimal": 0})
        client.close()


def test_kserves_sdk_gets_the_numbers_of_invocations(trained_model: Path, tmp_path: Path) -> None:
    """KServe's own client, which lives in an environment of its own: it brings other versions of what kbuild has."""
    python = tmp_path / "sdk/bin/python"
    for words in (
        ["venv", "--python", BIN / "python", tmp_path / "sdk"],
        ["pip", "install", "--python", python, "kserve"],
    ):
        done = subprocess.run([BIN / "uv", words[0], "--quiet", *words[1:]], capture_output=True, text=True)
        require(done.returncode == 0, f"kserve does not install: {done.stderr.strip()[-400:]}")
    recorded = json.loads((trained_model / "recorded_prediction.json").read_text())["predictions"]
    with ours(trained_model, tmp_path, KBUILD_WORKERS="1") as (url, _):
        client = Path(__file__).parent / "kserve_client.py"
        example = trained_model / "serving_input_example.json"
        told = json.loads(subprocess.run([python, client, url, example], check=True, stdout=subprocess.PIPE).stdout)
    expected = {name: [row[name] for row in recorded] for name in recorded[0]}
    assert told == {"live": True, "ready": True, "model": True, "answers": [expected, expected]}
