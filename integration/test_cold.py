"""What starts without MLflow, and without packages that only MLflow asked for, answers as with them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from engines import free_port
from servers import ours, theirs
from tool import BIN, Tool, Trained, running

from kbuild.digest import Digest
from kbuild.image.oci.layout import read_json_blob, read_manifest

SHORT = json.dumps({"dataframe_records": [{"x": 1.5, "n": 2, "flag": True, "text": "a"}]}).encode()
# Each is the first thing that a fresh server is asked: no JSON, a table that does not fit, and a path with a slash.
FIRST = {
    "broken": ("POST", "/invocations", b"{", "application/json"),
    "missing": ("POST", "/invocations", b'{"dataframe_records": [{"x": 1}]}', "application/json"),
    "slash": ("POST", "/invocations/", SHORT, "application/json"),
}


def ask(url: str, method: str, path: str, body: bytes, content_type: str) -> tuple[Any, ...]:
    answer = requests.request(
        method, url + path, data=body, headers={"Content-Type": content_type}, timeout=60, allow_redirects=False
    )
    text = answer.content
    if b'"stack_trace"' in text:
        told = answer.json()
        del told["stack_trace"]
        text = json.dumps(told).encode()
    headers = [answer.headers.get(name) for name in ("content-type", "content-length", "allow")]
    return answer.status_code, text, headers if b"stack_trace" not in answer.content else headers[:1]


def resident(pid: int) -> int:
    """KiB of a process and of those it started."""
    folders = [Path(f"/proc/{pid}/task/{pid}/children")]
    children = [int(child) for folder in folders for child in folder.read_text().split()]
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in rollup if line.startswith("Rss:")).split()[1]) + sum(map(resident, children))


def test_whatever_a_fresh_server_is_asked_first_is_answered_as_mlflow_answers(mixed: Path, tmp_path: Path) -> None:
    with theirs(mixed, tmp_path) as their_url:
        for name, request in FIRST.items():
            folder = tmp_path / name
            folder.mkdir()
            with ours(mixed, folder, KBUILD_WORKERS="1") as (url, process):
                before = resident(process.pid)
                first, expected = ask(url, *request), ask(their_url, *request)
                assert first == expected, name
                # It was MLflow that answered, imported just now; and the short way answers on.
                assert resident(process.pid) > before + 30_000
                again = ("POST", "/invocations", SHORT, "application/json")
                assert ask(url, *again) == ask(their_url, *again)


@pytest.fixture(scope="module")
def slim(tool: Tool, trained: Trained) -> dict[str, Any]:
    """The demo's image without what it does not need."""
    built: dict[str, Any] = tool(
        "image", trained.run_id, "--slim", "--tag", "slim:1", "--json", cwd=trained.folder
    ).json
    return built


def test_a_slim_image_is_smaller_and_says_what_it_is_without(
    slim: dict[str, Any], demo: dict[str, Any], tool: Tool, trained: Trained
) -> None:
    layout = Path(slim["layout"])
    config = read_json_blob(layout, read_manifest(layout, Digest.parse(slim["digest"])).config.digest)
    left_out = config["config"]["Labels"]["io.kbuild.slim.left-out"].split()
    assert {"flask", "mlflow", "sqlalchemy"} <= {*left_out}
    assert not {"mlflow-skinny", "pandas", "scikit-learn", "uvicorn", "fastapi"} & {*left_out}
    whole = tool("image", trained.run_id, "--json", cwd=trained.folder).json
    assert whole["lock_digest"] == slim["lock_digest"]
    assert slim["size"] < 0.68 * whole["size"]
    # What it is without of packages that stay is said too, and so exactly that nothing seems damaged or missing.
    files = json.loads(config["config"]["Labels"]["io.kbuild.slim.left-out-files"])
    assert "tests/" in files["*"] and any("libarrow_flight" in path for path in files["pyarrow"])
    audited = tool("audit", trained.run_id, "--image", "slim:1", "--service", "none", "--offline", "--no-record",
                   "--format", "json", cwd=trained.folder, code=None)  # fmt: skip
    assert not [each for each in audited.json["findings"] if each["check"] in ("drift", "lock")], audited.out
    # The second time nothing is measured.
    again = tool("image", "-v", trained.run_id, "--slim", "--json", cwd=trained.folder)
    assert again.json["digest"] == slim["digest"]
    assert "asking the model" not in again.err


def test_a_slim_image_predicts_and_its_server_knows_which_image_it_is(
    slim: dict[str, Any], demo: dict[str, Any], tool: Tool, trained: Trained, tmp_path: Path
) -> None:
    port = free_port()
    argv: list[str | Path] = [BIN / "kbuild", "run", "slim:1", "--port", str(port)]
    with running(argv, tmp_path / "log", cwd=trained.folder, env=tool.environ()) as process:
        assert process.poll() is None
        url = f"http://127.0.0.1:{port}"
        _wait(url, tmp_path / "log")
        about = requests.get(f"{url}/metadata", timeout=10).json()
        assert (about["image_digest"], about["slim"]) == (slim["digest"], "1")
        example = (trained.model / "serving_input_example.json").read_bytes()
        answer = requests.post(
            f"{url}/invocations", data=example, headers={"Content-Type": "application/json"}, timeout=60
        )
        assert answer.json() == demo["expected"]
        # So are tables that MLflow reads, whichever way they are packed.
        table = pd.DataFrame(**{key: json.loads(example)["dataframe_split"][key] for key in ("columns", "data")})
        packed = {compression: table.to_parquet(compression=compression) for compression in ("snappy", "zstd")}
        for content_type, body in (
            ("text/csv", table.to_csv(index=False).encode()),
            *(("application/vnd.apache.parquet", body) for body in packed.values()),
        ):
            answer = requests.post(f"{url}/invocations", data=body, headers={"Content-Type": content_type}, timeout=60)
            assert answer.json() == demo["expected"], content_type
        # What only MLflow answers is answered too.
        assert requests.post(f"{url}/invocations", data=b"{}", timeout=60).status_code == 415
        wrong = requests.post(
            f"{url}/invocations", data=b"{}", headers={"Content-Type": "application/json"}, timeout=60
        )
        assert (wrong.status_code, wrong.json()["error_code"]) == (400, "BAD_REQUEST")


def _wait(url: str, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            pass  # not up yet
        time.sleep(0.2)
    pytest.fail(f"no answer: {log.read_text(encoding='utf-8')[-2000:]}")
