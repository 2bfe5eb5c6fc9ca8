"""``kbuild watch`` beside a real MLflow server and a real registry: nothing missed, aliases at once, no forgeries."""

from __future__ import annotations

import base64
import hmac
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from engines import Registry, free_port
from small_models import write_small
from tool import BIN, Tool
from tracking_setups import mlflow_server

SECRET = "whsec_c2hhcmVkIGJldHdlZW4gdGhlIHR3bw=="  # noqa: S105 - of this test alone
# ``openssl rand -base64 32``, as any Fernet key is.
VARIABLES = {
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "J64ZHFpCWFlS9zT7y5zxuQN1Gb09y7cucne_EhuWyDM=",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_CACHE_TTL": "1",
}


@dataclass
class Fleet:
    """A registered model ``Small`` on a server, and what its images are called."""

    client: mlflow.MlflowClient
    tool: Tool
    registry: Registry
    folder: Path
    port: int

    @property
    def push(self) -> str:
        return f"{self.registry.address}/watched/{{name}}:{{version}}"

    def register(self, number: int) -> str:
        run = self.client.create_run("0")
        self.client.log_artifacts(run.info.run_id, str(write_small(self.folder / f"m{number}", number)), "model")
        source = f"{run.info.artifact_uri}/model"
        made = self.client.create_model_version("Small", source, run.info.run_id)
        return str(made.version)

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version("Small", version).tags)

    def digest(self, tag: str) -> str | None:
        url = f"http://{self.registry.address}/v2/watched/small/manifests/{tag}"
        answer = requests.head(url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}, timeout=10)
        return answer.headers["Docker-Content-Digest"] if answer.status_code == 200 else None

    def post(self, stamp: float, *, id: str = "an-id", secret: str = SECRET) -> int:
        body = json.dumps({"entity": "model_version", "action": "created", "data": {"name": "Small"}}).encode()
        signed = hmac.digest(secret.encode(), f"{id}.{stamp:.0f}.".encode() + body, "sha256")
        headers = {
            "X-MLflow-Delivery-Id": id,
            "X-MLflow-Timestamp": f"{stamp:.0f}",
            "X-MLflow-Signature": f"v1,{base64.b64encode(signed).decode()}",
        }
        return requests.post(
            f"http://127.0.0.1:{self.port}/webhook", data=body, headers=headers, timeout=10
        ).status_code


@pytest.fixture(scope="module")
def fleet(tool: Tool, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("watch")
    with mlflow_server(folder / "server", **VARIABLES) as (uri, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        client = mlflow.MlflowClient(uri)
        client.create_registered_model("Small")
        mine = Tool(cache=tool.cache, environment={**tool.environment, "MLFLOW_TRACKING_URI": uri})
        yield Fleet(client=client, tool=mine, registry=registry, folder=folder, port=free_port())


def wait_until(condition: Callable[[], Any], what: str, seconds: float) -> float:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"{what} took more than {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - begin


def test_a_registry_gets_its_images_whatever_was_missed(fleet: Fleet, record_property: Any) -> None:
    """Registered while nobody listened, told by a webhook, moved by an alias; and forgeries are turned away."""
    tool, listen = fleet.tool, f"127.0.0.1:{fleet.port}"
    missed = [fleet.register(number) for number in (1, 2, 3)]
    fleet.client.set_registered_model_alias("Small", "champion", missed[2])
    log = fleet.folder / "watch.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BIN / "kbuild"), "watch", "--push", fleet.push, "--listen", listen, "--every", "1h"],
            env=tool.environ(KBUILD_WEBHOOK_SECRET=SECRET), cwd=fleet.folder, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        wait_until(lambda: all("kbuild.named" in fleet.tags(each) for each in missed), "three images", 240)
        digests = {each: fleet.digest(each) for each in missed}
        assert None not in digests.values() and len(set(digests.values())) == 3
        wait_until(lambda: fleet.digest("champion") == digests[missed[2]], "the first alias", 30)
        made = tool("watch", "--register", f"http://{listen}/webhook", KBUILD_WEBHOOK_SECRET=SECRET, cwd=fleet.folder)
        assert made.out.strip() == f"http://{listen}/webhook"
        time.sleep(1.1)  # the server knows for a second that it has no webhook
        fleet.client.set_registered_model_alias("Small", "champion", missed[0])
        moved = wait_until(lambda: fleet.digest("champion") == digests[missed[0]], "alias to tag", 10)
        new = fleet.register(4)
        built = wait_until(lambda: "kbuild.named" in fleet.tags(new), "the image of a new version", 60)
        record_property("table:kbuild watch", {"alias to tag": f"{moved:.2f} s", "version to image": f"{built:.2f} s"})

        image = f"{fleet.registry.address}/watched/small@{digests[missed[0]]}"
        argv = ["models:/Small@champion", "--to", "kubernetes", "-o", "manifests"]
        written = tool("deploy", *argv, cwd=fleet.folder).out.split()
        assert any(f"image: {image}\n" in (fleet.folder / each).read_text() for each in written)

        now = time.time()
        assert [fleet.post(now), fleet.post(now)] == [202, 409]
        assert fleet.post(now, id="forged", secret="guess") == 401  # noqa: S106
        assert fleet.post(now - 600, id="stale") == 401
        told = log.read_text()
        assert [told.count(each) for each in ("taken before", "the signature is not", "s off")] == [1, 1, 1]
        assert requests.get(f"http://{listen}/healthz", timeout=10).json()["problem"] is None
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_what_fails_says_so_on_its_version(fleet: Fleet) -> None:
    run = fleet.client.create_run("0")
    folder = write_small(fleet.folder / "broken", 9)
    (folder / "MLmodel").write_text("flavors: {spark: {}}\n")
    fleet.client.log_artifacts(run.info.run_id, str(folder), "model")
    made = fleet.client.create_model_version("Small", f"{run.info.artifact_uri}/model", run.info.run_id)
    before = fleet.tool("watch", "--once", "--push", fleet.push, code=70, cwd=fleet.folder)
    assert "no python_function flavor" in before.err
    tags = fleet.tags(str(made.version))
    assert "no python_function flavor" in tags["kbuild.error"] and tags["kbuild.attempts"] == "1"
