"""Files of a model sent through a tracking server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from listening import listening
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from kbuild.recording.mlflow_run import lose_patience, patience
from kbuild.tracking.uploads import uploading_side_by_side

# MLflow's docs, "Environment variables".
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
FILES = {
    "MLmodel": b"a: 1\n",
    "code/pkg/__init__.py": b"\n",
    "code/pkg/deep/er.py": b"x = 1\n",
    "data/model.pkl": b"\0" * 99,
}


class Store(ThreadingHTTPServer):
    """Takes what is PUT; holds each answer until ``together`` requests are there; refuses ``refused`` with ``status``,
    for which it may be asked again in a quarter of an hour."""

    daemon_threads = True

    def __init__(self, together: int, refused: str | None = None, status: int = 403) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.met, self.refused, self.status = threading.Barrier(together, timeout=20), refused, status
        self.stored: dict[str, bytes] = {}


class _Handler(BaseHTTPRequestHandler):
    server: Store

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.met.wait()
        refused = self.server.refused is not None and self.path.endswith(self.server.refused)
        if not refused:
            self.server.stored[self.path] = body
        self.send_response(self.server.status if refused else 200)
        if refused:
            self.send_header("Retry-After", "900")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    yield tmp_path


def test_all_files_arrive_where_mlflow_puts_them_and_at_once(folder: Path) -> None:
    one_by_one = Store(together=1)
    with listening(one_by_one) as url:
        HttpArtifactRepository(f"{url}/store").log_artifacts(str(folder), "models/m-1")
    server = Store(together=len(FILES))  # nobody gets an answer before all have asked
    with listening(server) as url, uploading_side_by_side():
        HttpArtifactRepository(f"{url}/store").log_artifacts(str(folder), "models/m-1")
    assert server.stored == one_by_one.stored and len(server.stored) == len(FILES)


def test_a_file_that_is_refused_is_an_error_and_the_client_is_mlflows_own_again(folder: Path) -> None:
    own = HttpArtifactRepository.log_artifacts
    store = Store(together=1, refused="model.pkl")
    with listening(store) as url, uploading_side_by_side(), pytest.raises(Exception, match="403") as raised:
        HttpArtifactRepository(f"{url}/store").log_artifacts(str(folder))
    assert isinstance(raised.value, MlflowException | OSError)
    assert HttpArtifactRepository.log_artifacts is own


@pytest.mark.parametrize("status", [413, 507])
def test_a_store_whose_quota_is_used_up_is_believed_at_once(
    status: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RETRIES, raising=False)
    store = Store(together=1, refused="model.pkl", status=status)
    begin = time.monotonic()
    with listening(store) as url, uploading_side_by_side(), patience(), pytest.raises(Exception, match=str(status)):
        HttpArtifactRepository(f"{url}/store").log_artifacts(str(folder))
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(("users", "after"), [(None, "1"), ("7", "7")])
def test_whoever_was_waited_for_in_vain_is_not_waited_for_once_more(
    users: str | None, after: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow asks the same server to mark the model as failed."""
    monkeypatch.delenv(RETRIES, raising=False)
    if users is not None:
        monkeypatch.setenv(RETRIES, users)
    store = Store(together=1, refused="model.pkl")
    with listening(store) as url, uploading_side_by_side(failed=lose_patience), patience():
        with pytest.raises(Exception, match="403"):
            HttpArtifactRepository(f"{url}/store").log_artifacts(str(folder))
        assert os.environ[RETRIES] == after
    assert os.environ.get(RETRIES) == users
