"""A tracking server of MLflow's documented REST API, as far as builds use it; it keeps what it was asked.

https://mlflow.org/docs/latest/api_reference/rest-api.html, and "MLflow Artifacts" in MLflow's
``protos/mlflow_artifacts.proto``. The integration tests ask the same of a real one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from listening import listening

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
RUN = "a" * 32
Answer = tuple[int, bytes]
Fault = Callable[[str], "tuple[int, dict[str, str]] | None"]


@dataclass
class FakeTracking:
    """What the server has. ``artifacts`` is the folder behind ``mlflow-artifacts:/``; ``fault`` may answer instead."""

    artifacts: Path
    uri: str = ""
    root: str = "mlflow-artifacts:"
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    locations: dict[tuple[str, str], str] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    model_tags: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fault: Fault = lambda path: None

    def add_model(self, source: Path, number: int = 0) -> str:
        """Log a model of the run: its id."""
        model_id = f"m-{number:032x}"
        folder = self.artifacts / "1" / "models" / model_id / "artifacts"
        for file in (each for each in source.rglob("*") if each.is_file()):
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        mlmodel = folder / "MLmodel"
        mlmodel.write_text(f"{mlmodel.read_text()}\nmodel_id: {model_id}\nrun_id: {RUN}\n")
        self.models[model_id] = {
            "model_id": model_id, "name": f"model{number or ''}", "status": "LOGGED_MODEL_READY",
            "artifact_uri": f"mlflow-artifacts:/1/models/{model_id}/artifacts",
        }  # fmt: skip
        return model_id

    def register(self, name: str, version: str, source: str, location: str) -> None:
        """A version of a registered model."""
        self.versions.append(
            {"name": name, "version": version, "source": source, "run_id": RUN, "creation_timestamp": 7, "tags": []}
        )
        self.locations[name, version] = location

    def answer(self, method: str, path: str, values: dict[str, Any]) -> tuple[int, Any]:
        if path == f"{API}/runs/get":
            if values["run_id"] != RUN:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}
            info = {"run_id": RUN, "artifact_uri": f"{self.root}/1/{RUN}/artifacts", "lifecycle_stage": "active"}
            data = {"tags": [{"key": key, "value": value} for key, value in self.tags.items()]}
            outputs = {"model_outputs": [{"model_id": each} for each in self.models]}
            return 200, {"run": {"info": info, "data": data, "outputs": outputs}}
        if path == f"{API}/runs/log-batch":
            self.tags.update({each["key"]: each["value"] for each in values["tags"]})
            return 200, {}
        if path.startswith(f"{API}/logged-models/") and path.endswith("/tags"):
            self.model_tags[path.split("/")[-2]] = {each["key"]: each["value"] for each in values["tags"]}
            return 200, {}
        if path.startswith(f"{API}/logged-models/"):
            model_id = path.rpartition("/")[2]
            kept = [{"key": key, "value": value} for key, value in self.model_tags.get(model_id, {}).items()]
            return 200, {"model": {"info": {**self.models[model_id], "tags": kept}}}
        if path == f"{API}/model-versions/update":
            for each in self.versions:
                if (each["name"], each["version"]) == (values["name"], values["version"]):
                    each["description"] = values["description"]
            return 200, {}
        if path == f"{API}/model-versions/search":
            return 200, {"model_versions": self.versions}
        if path == f"{API}/model-versions/set-tag":
            for each in self.versions:
                if (each["name"], each["version"]) == (values["name"], values["version"]):
                    each["tags"].append({"key": values["key"], "value": values["value"]})
            return 200, {}
        if path == f"{API}/model-versions/get-download-uri":
            return 200, {"artifact_uri": self.locations[values["name"], values["version"]]}
        if path == f"{API}/registered-models/alias":
            version = self.aliases[values["name"], values["alias"]]
            return 200, {"model_version": {"name": values["name"], "version": version}}
        if path == ARTIFACTS:
            folder = self.artifacts / values["path"]
            return 200, {
                "files": [
                    {"path": each.name, "is_dir": each.is_dir(), "file_size": each.stat().st_size}
                    for each in (sorted(folder.iterdir()) if folder.is_dir() else [])
                ]
            }
        if path.startswith(f"{ARTIFACTS}/"):
            file = self.artifacts / unquote(path.removeprefix(f"{ARTIFACTS}/"))
            if method == "PUT":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(values["body"])
                return 200, {}
            return 200, file.read_bytes()
        return 404, {"error_code": "ENDPOINT_NOT_FOUND"}


@contextmanager
def fake_tracking(artifacts: Path) -> Iterator[FakeTracking]:
    """The server, on 127.0.0.1."""
    fake = FakeTracking(artifacts=artifacts)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one piece: else each answer waits for an acknowledgement

        def _do(self) -> None:
            parts = urlsplit(self.path)
            fake.asked.append(f"{self.command} {parts.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = fake.fault(parts.path)
            headers: dict[str, str] = {}
            if fault is not None:
                status, headers = fault
                content: Any = b"busy"
                if status == 0:
                    # Without an answer: the client sees the connection reset.
                    self.close_connection = True
                    return
            else:
                values: dict[str, Any] = {name: each[0] for name, each in parse_qs(parts.query).items()}
                if self.command in ("POST", "PATCH"):
                    values = json.loads(body)
                elif self.command == "PUT":
                    values = {"body": body}
                status, content = fake.answer(self.command, parts.path, values)
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = _do

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with listening(server) as fake.uri:
        yield fake
