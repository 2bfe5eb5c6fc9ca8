"""What follows training, on real servers: MLflow over HTTP, a registry that asks for a password, Docker, a receiver."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import requests
import yaml
from engines import DockerEngine, free_port, install_engine
from servers import tracking_server
from tool import BIN, Tool, copy_project, running

USER, PASSWORD = "builder", "correct horse"
SECRET = "shared between training and its receiver"  # noqa: S105 - of this test alone
ADVISORY = {
    "id": "PYSEC-2020-1",
    "modified": "2020-01-01T00:00:00Z",
    "affected": [{"package": {"ecosystem": "PyPI", "name": "no-such-package"}, "versions": ["1.0"]}],
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """A project with its servers; ``tool`` has their addresses and the registry's password in its environment."""

    project: Path
    tool: Tool
    tracking_uri: str
    registry: str

    def train(self, **environment: str) -> tuple[str, str]:
        """``kedro run``: the run's id and what it printed."""
        done = self.tool.run([BIN / "kedro", "run"], cwd=self.project, **environment)
        assert done.code == 0, done.err[-3000:] + done.out[-1000:]
        logged = re.search(r"Logged model models:/\S+ in run ([0-9a-f]{32})", done.out)
        assert logged is not None, done.out
        return logged[1], done.out

    def tags(self, run_id: str) -> dict[str, str]:
        answer = requests.get(f"{self.tracking_uri}/api/2.0/mlflow/runs/get", params={"run_id": run_id}, timeout=30)
        return {tag["key"]: tag["value"] for tag in answer.json()["run"]["data"]["tags"]}

    def configure(self, **values: Any) -> None:
        """Write conf/local/kbuild.yml, which wins over what ``kbuild init`` wrote."""
        (self.project / "conf" / "local" / "kbuild.yml").write_text(yaml.safe_dump(values))

    def check_delivered(self, run_id: str) -> None:
        """The registry has the image under the run's id, and the run says which, and that it was verified."""
        tags = self.tags(run_id)
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        url = f"http://{self.registry}/v2/diabetes/manifests/{run_id}"
        assert requests.get(url, headers=accept, timeout=30).status_code == 401
        found = requests.get(url, headers=accept, auth=(USER, PASSWORD), timeout=30)
        assert found.status_code == 200
        digest = found.headers["Docker-Content-Digest"]
        assert tags["kbuild.image_digest"] == tags["kbuild.verified_digest"] == digest
        assert tags["kbuild.pushed"] == f"{self.registry}/diabetes@{digest}"
        assert tags["kbuild.verify"] == "passed"
        assert tags["kbuild.audit"] == "clean"
        assert re.fullmatch("sha256:[0-9a-f]{64}", tags["kbuild.lock_digest"])


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry that takes one user's password."""
    install_engine()
    folder = tmp_path_factory.mktemp("private-registry")
    (folder / "htpasswd").write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
        "auth": {"htpasswd": {"realm": "kbuild", "path": str(folder / "htpasswd")}},
    }
    (folder / "registry.yml").write_text(json.dumps(config))
    with running(["docker-registry", "serve", folder / "registry.yml"], folder / "log"):
        wait_until(lambda: requests.get(f"http://{address}/v2/", timeout=5).status_code == 401, "the registry")
        yield address


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> Iterator[str]:
    """A real tracking server, which also takes the artifacts."""
    with tracking_server(tmp_path_factory.mktemp("mlflow-server"), tool) as uri:
        yield uri


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    tool: Tool,
    tracking_uri: str,
    private_registry: str,
    docker_engine: DockerEngine,
) -> Site:
    """The demo project after ``kbuild init``."""
    folder = tmp_path_factory.mktemp("site")
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "docker").mkdir()
    (folder / "docker" / "config.json").write_text(json.dumps({"auths": {private_registry: {"auth": login}}}))
    (folder / "advisories.json").write_text(json.dumps(ADVISORY))
    project = copy_project(folder / "project")
    environment = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "DOCKER_CONFIG": str(folder / "docker"),
        "DOCKER_HOST": docker_engine.host,
        "PYTHONWARNINGS": "ignore",
    }
    own = Tool(cache=tool.cache, environment={**tool.environment, **environment})
    own("init", "--push", f"{private_registry}/diabetes:{{run_id}}", cwd=project)
    with (project / "pyproject.toml").open("a") as file:
        file.write(AUDIT.format(advisories=folder / "advisories.json"))
    return Site(project=project, tool=own, tracking_uri=tracking_uri, registry=private_registry)


# No advisories of a conda package called python exist, and the interpreter is one where no channel answers.
AUDIT = """
[tool.kbuild.audit]
advisories = "{advisories}"
max-advisory-age = 100000

[[tool.kbuild.audit.ignore]]
id = "unchecked"
reason = "packages without advisories are not what is tested here"
expires = 2099-01-01
"""


def wait_until(condition: Any, what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            if condition():
                return
        time.sleep(0.1)
    pytest.fail(f"{what} did not become ready")


def test_local_builds_in_the_background_and_training_does_not_wait(site: Site) -> None:
    site.configure(trigger="local")
    begin = time.monotonic()
    run_id, out = site.train()
    trained = time.monotonic() - begin
    said = re.search(r"Trigger local: the image is built in the background: process (\d+), log (\S+)", out)
    assert said is not None, out
    log = Path(said[2])
    assert not log.read_text(encoding="utf-8").rstrip().endswith("finished"), "training waited for the image"
    wait_until(lambda: re.search(r"finished\n$|error: ", log.read_text(encoding="utf-8")), "the job", seconds=240)
    steps = re.findall(r" (\w+): done in", log.read_text(encoding="utf-8"))
    assert steps == ["lock", "image", "verify", "audit", "push"], log.read_text(encoding="utf-8")[-3000:]
    assert log.is_relative_to(site.project / ".kbuild")
    assert (site.project / ".kbuild" / ".gitignore").read_text().endswith("*\n")
    site.check_delivered(run_id)
    print(f"kedro run {trained:.1f} s, then in the background {time.monotonic() - begin - trained:.1f} s")


@dataclass
class Receiver:
    """What a team would write: check the signature by ``kbuild trigger --verify``, then run the generated job."""

    site: Site
    statuses: list[int] = field(default_factory=list)
    jobs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def take(self, headers: dict[str, str], body: bytes) -> int:
        argv: list[str] = [str(BIN / "kbuild"), "trigger", "--verify"]
        for name, value in headers.items():
            argv += ["--header", f"{name}: {value}"]
        environment = self.site.tool.environ(KBUILD_WEBHOOK_SECRET=SECRET)
        checked = subprocess.run(argv, input=body, capture_output=True, env=environment, cwd=self.site.project)
        if checked.returncode != 0:
            self.statuses.append(checked.returncode)
            return 401
        uri = checked.stdout.decode().strip()
        job = {
            "PATH": f"{BIN}:{environment['PATH']}",
            "KBUILD_OUTPUT": str(self.site.project / "output"),
            "KBUILD_RUNTIME": "unshare",  # the local job verifies in Docker
        }
        with (self.site.project / "job.log").open("ab") as log:
            self.jobs.append(
                subprocess.Popen(
                    ["sh", "ci/kbuild.sh", uri],
                    cwd=self.site.project,
                    env={**environment, **job},
                    stdout=log,
                    stderr=log,
                )
            )
        self.statuses.append(0)
        return 202


@contextlib.contextmanager
def receiving(receiver: Receiver, port: int) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take(dict(self.headers.items()), body))
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_webhook_waits_for_its_receiver_and_starts_the_job(site: Site) -> None:
    port = free_port()
    hook = {"url": f"http://127.0.0.1:{port}/kbuild", "retries": 1, "timeout": 30}
    site.configure(trigger="webhook", webhook=hook)
    run_id, out = site.train(KBUILD_WEBHOOK_SECRET=SECRET)
    assert "Trigger webhook: webhook was not told: " in out and "The model is logged all the same." in out
    (waiting,) = site.tool("trigger", "--json", cwd=site.project).json
    assert waiting["run_id"] == run_id

    receiver = Receiver(site)
    with receiving(receiver, port):
        other = {"KBUILD_WEBHOOK_SECRET": "another one"}
        refused = site.tool("trigger", "--flush", cwd=site.project, code=62, **other)
        assert "answered 401" in refused.err
        assert receiver.statuses == [61] and not receiver.jobs
        site.tool("trigger", "--flush", cwd=site.project, KBUILD_WEBHOOK_SECRET=SECRET)
    assert site.tool("trigger", "--json", cwd=site.project).json == []
    assert receiver.statuses == [61, 0]
    (job,) = receiver.jobs
    assert job.wait(240) == 0, (site.project / "job.log").read_text()[-3000:]
    site.check_delivered(run_id)
    assert (site.project / "output" / "image.txt").read_text().strip() == site.tags(run_id)["kbuild.pushed"]
    assert (site.project / "output" / "conda-lock.yml").is_file()


def test_doctor_finds_the_servers_well_and_says_what_is_wrong(site: Site) -> None:
    site.configure(trigger="webhook", webhook={"url": "http://127.0.0.1:9/x"})
    checks = site.tool("doctor", "--json", cwd=site.project, KBUILD_WEBHOOK_SECRET=SECRET).json
    found = {check["name"]: check["status"] for check in checks}
    for name in ("configuration", "versions", "tracking", "index", "solver", "runtime", "registry", "disk", "trigger"):
        assert found[name] == "ok", checks
    sick = site.tool(
        "doctor", "--json", cwd=site.project, code=6, DOCKER_CONFIG="/nowhere", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    failed = {check["name"]: check["hint"] for check in sick.json if check["status"] == "fail"}
    assert failed.keys() == {"tracking", "registry", "trigger"}
    assert failed["registry"] == f"docker login {site.registry}"
    assert "KBUILD_WEBHOOK_SECRET" in failed["trigger"]
