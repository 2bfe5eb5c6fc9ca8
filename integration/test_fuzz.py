"""Hostile input to the running server: it refuses, tells no internals, and lives on."""

from __future__ import annotations

import asyncio
import collections
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from engines import require
from fuzz import Fuzzer
from servers import SERVING_TESTS, ours
from tool import BIN

COUNT = 10_000
CONNECTIONS = 4
# What our own code says, what MLflow says, and nothing of where either lies.
INTERNALS = re.compile(rb'Traceback|File \\?"|site-packages|/lib/python|\.py\b')
PARAMS = ("scale", "times", "word")


@pytest.fixture(scope="module")
def mlflow_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MLflow's own app of the same model, in this process."""
    sys.path.insert(0, str(SERVING_TESTS))
    import models

    yield models.mlflow.pyfunc.scoring_server.init(models.make_model("mixed", tmp_path_factory.mktemp("mixed")))
    sys.path.remove(str(SERVING_TESTS))


def ask_mlflow(app: Any, content_type: str, body: bytes) -> int:
    import asgi

    try:
        return asyncio.run(asgi.call(app, "POST", "/invocations", body, {"content-type": content_type}))[0]
    except Exception:  # noqa: BLE001  what escapes the app is 500 under any server
        return 500


def children(pid: int) -> set[str]:
    return {*Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()}


@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_hostile_requests(mixed: Path, mlflow_app: Any, tmp_path: Path) -> None:
    cases = json.loads((SERVING_TESTS / "conformance.json").read_text("utf-8"))
    valid = [(c["body"].encode("utf-8", "surrogatepass"), c["content_type"]) for c in cases if c["model"] == "mixed"]
    with ours(mixed, tmp_path, KBUILD_WORKERS="2", KBUILD_MAX_BODY_BYTES="100000") as (url, process):
        workers = children(process.pid)

        def drive(seed: int) -> tuple[collections.Counter[int], list[tuple[str, bytes]], list[Any]]:
            seen: collections.Counter[int] = collections.Counter()
            failed: list[tuple[str, bytes]] = []
            wrong: list[Any] = []
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
            for path, content_type, body in Fuzzer(seed, valid, PARAMS).requests(COUNT // CONNECTIONS):
                connection.request("POST", path, body, {"Content-Type": content_type})
                answer = connection.getresponse()
                text = answer.read()
                seen[answer.status] += 1
                if answer.status == 500:
                    failed.append((content_type, body))
                elif answer.status not in (200, 400, 413, 415):
                    wrong.append((answer.status, content_type, body[:500]))
                # What was sent comes back in some of MLflow's messages.
                if INTERNALS.search(text) and not INTERNALS.search(body):
                    wrong.append((answer.status, content_type, body[:500], text[:500]))
                if answer.status == 413:
                    connection.close()
            connection.close()
            return seen, failed, wrong

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            results = [*pool.map(drive, range(CONNECTIONS))]
        assert children(process.pid) == workers
        assert process.poll() is None
        assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
    total = sum((seen for seen, _, _ in results), collections.Counter[int]())
    assert total.total() == COUNT
    assert min(total[status] for status in (200, 400, 413, 415)) >= 10, total
    assert [each for _, _, wrong in results for each in wrong] == []
    # Where it says 500 with a plain text, MLflow's own server does.
    failed = [each for _, failures, _ in results for each in failures]
    assert [each for each in failed if ask_mlflow(mlflow_app, *each) != 500] == []
    # Nothing writes past the log.
    assert {type(json.loads(line)) for line in (tmp_path / "ours.log").read_text().splitlines()} <= {dict}


def test_schemathesis_finds_nothing_against_the_openapi(mixed: Path, tmp_path: Path) -> None:
    tool = BIN / "schemathesis"
    require(tool.is_file(), "schemathesis is not installed")
    # A table must be more than a schema can say (rows of one length, the header of a CSV), and MLflow reads more
    # than the signature says (null for any param). Tensors are fuzzed in tests/serving/test_oip.py.
    left_out = "positive_data_acceptance,negative_data_rejection"
    with ours(mixed, tmp_path, KBUILD_WORKERS="1") as (url, process):
        done = subprocess.run(
            [tool, "run", f"{url}/openapi.json", "--url", url, "--max-examples", "100", "--seed", "1",
             "--exclude-checks", left_out, "--continue-on-failure", "--exclude-path-regex", "^/v2",
             "--workers", "2", "--suppress-health-check", "all", "--request-timeout", "30"],
            cwd=tmp_path, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:]
        assert process.poll() is None
