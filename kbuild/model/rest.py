"""A tracking server, asked by MLflow's REST API.

https://mlflow.org/docs/latest/api_reference/rest-api.html; artifacts that the server passes on are described in "MLflow
Tracking Server", under "Using the Tracking Server for proxied artifact access".
"""

from __future__ import annotations

import base64
import configparser
import mimetypes
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from kbuild.bounded.in_time import steady
from kbuild.cache.room import room_for
from kbuild.files import expand_home
from kbuild.http import BUSY, ThreadSessions, patient_session, work_patiently
from kbuild.model.cloud import SCHEMES, CloudFolder
from kbuild.model.folders import open_local, plain
from kbuild.model.tracking import Folder, LoggedModel, Run, RunQuery, Tracking, TrainedRun, Unfamiliar, Version, texts
from kbuild.tracking.preflight import make_error, make_unavailable

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_TIMEOUT = (5, 20)
_PARALLEL = 8
_CHUNK = 1 << 20
# MLflow's client fetches and sends large files in parts where a server can: from here on it is worth its start.
_LARGE = 200_000_000


@contextmanager
def open_rest(uri: str) -> Iterator[Tracking]:
    """The server at an http uri, with the credentials and certificates that MLflow's variables name.

    What answers otherwise than expected is Unfamiliar. Raises TrackingUnavailable where nobody answers, or the server
    stays busy: to ask again through MLflow's client would be no use.
    """
    with ThreadSessions(_session) as sessions:
        try:
            sessions.mine()  # now, while what is wrong with MLflow's variables is told as such
            yield _Rest(sessions=sessions, base=uri.rstrip("/"))
        except _StaysBusy as error:
            raise make_unavailable(uri, f"it answers {error}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise make_error(uri, error) from error
        except (requests.RequestException, KeyError, TypeError, AttributeError, ValueError) as error:
            # No answer, or one of another form than the documented one.
            raise Unfamiliar(f"the server: {error}") from error


def _session() -> requests.Session:
    session = patient_session(methods=("PATCH",))
    session.headers["User-Agent"] = "kbuild"
    _trust(session, os.environ)
    return session


def _trust(session: requests.Session, environ: Mapping[str, str]) -> None:
    user, password = _user(environ)
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        coded = base64.b64encode(f"{user}:{password}".encode()).decode()
        session.headers["Authorization"] = f"Basic {coded}"
    elif token:
        session.headers["Authorization"] = f"Bearer {token}"
    insecure = environ.get("MLFLOW_TRACKING_INSECURE_TLS", "false").lower()
    if insecure not in ("true", "false", "1", "0"):
        raise Unfamiliar("MLFLOW_TRACKING_INSECURE_TLS is not a boolean")
    authority = environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if insecure in ("true", "1"):
        # MLflow's client warns, and refuses both at once.
        raise Unfamiliar("certificates are not checked")
    if authority:
        session.verify = authority
    if certificate := environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        session.cert = certificate


def _user(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Of MLflow's variables, else of its file ``~/.mlflow/credentials``."""
    parser = configparser.ConfigParser()
    path = expand_home("~/.mlflow/credentials")
    try:
        parser.read(path)
        user, password = (
            environ.get(name) or parser.get("mlflow", name.lower(), fallback=None)
            for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        )
    except configparser.Error as error:
        raise Unfamiliar(f"{path} cannot be read") from error
    return user, password


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rest:
    """A ``Tracking``."""

    sessions: ThreadSessions
    base: str

    def run(self, run_id: str) -> Run:
        return Run.told(self._get("/runs/get", run_id=run_id)["run"])

    def newest(self, wanted: RunQuery, many: int) -> Sequence[TrainedRun]:
        experiments = self._get("/experiments/search", max_results="1000")
        if experiments.get("next_page_token"):
            raise Unfamiliar("more experiments than one page")
        ids = [each["experiment_id"] for each in experiments.get("experiments", ())]
        runs = self._post("/runs/search", **wanted.search(ids, many)).get("runs", ()) if ids else ()
        return [TrainedRun.told(run["info"], texts(run["data"].get("tags", ()))) for run in runs]

    def logged_model(self, model_id: str) -> LoggedModel | None:
        answer = self.sessions.mine().get(f"{self.base}{_API}/logged-models/{plain(model_id)}", timeout=_TIMEOUT)
        if answer.status_code == requests.codes.not_found:
            if answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise Unfamiliar("the server knows no logged models")
        info = _json(answer)["model"]["info"]
        return LoggedModel(
            model_id=info["model_id"],
            name=info["name"],
            location=info["artifact_uri"],
            ready=info["status"] == "LOGGED_MODEL_READY",
        )

    def version_with_alias(self, name: str, alias: str) -> str:
        return str(self._get("/registered-models/alias", name=name, alias=alias)["model_version"]["version"])

    def version_location(self, name: str, version: str) -> str:
        return str(self._get("/model-versions/get-download-uri", name=name, version=version)["artifact_uri"])

    def versions_of(self, run_id: str) -> Sequence[Version]:
        answer = self._get("/model-versions/search", filter=f"run_id = '{plain(run_id)}'", max_results="10000")
        if answer.get("next_page_token"):
            raise Unfamiliar("more versions than one page")
        return [
            Version(
                name=each["name"],
                version=str(each["version"]),
                source=each.get("source", ""),
                tags=texts(each.get("tags", ())),
                created=str(each["creation_timestamp"]) if each.get("creation_timestamp") else None,
                description=each.get("description"),
            )
            for each in answer.get("model_versions", ())
        ]

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        pairs = [{"key": name, "value": value} for name, value in tags.items()]
        self._post("/runs/log-batch", run_id=run_id, metrics=[], params=[], tags=pairs)

    def set_version_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._post("/model-versions/set-tag", name=version.name, version=version.version, key=name, value=value)

    def describe_version(self, version: Version, text: str) -> None:
        self._send("PATCH", "/model-versions/update", name=version.name, version=version.version, description=text)

    def model_tags(self, model_id: str) -> Mapping[str, str]:
        return texts(self._get(f"/logged-models/{plain(model_id)}")["model"]["info"].get("tags", ()))

    def set_model_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        pairs = [{"key": name, "value": value} for name, value in tags.items()]
        self._send("PATCH", f"/logged-models/{plain(model_id)}/tags", tags=pairs)

    def folder(self, location: str) -> Folder:
        parts = urlsplit(location)
        if parts.scheme in SCHEMES:
            return CloudFolder(uri=location)
        if parts.scheme != "mlflow-artifacts":
            return open_local(location)
        if parts.netloc or parts.query or parts.fragment:
            raise Unfamiliar("artifacts of another server")
        return _PassedOn(sessions=self.sessions, url=f"{self.base}{_ARTIFACTS}", root=plain(parts.path.strip("/")))

    def _get(self, path: str, **values: str) -> dict[str, Any]:
        return _json(self.sessions.mine().get(f"{self.base}{_API}{path}", params=values, timeout=_TIMEOUT))

    def _post(self, path: str, **values: Any) -> dict[str, Any]:
        return self._send("POST", path, **values)

    def _send(self, method: str, path: str, **values: Any) -> dict[str, Any]:
        # Followed, a redirection could become a reading that succeeds.
        url = f"{self.base}{_API}{path}"
        return _json(self.sessions.mine().request(method, url, json=values, timeout=_TIMEOUT, allow_redirects=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class _PassedOn:
    """A ``Folder`` that the tracking server passes on from wherever it keeps artifacts."""

    sessions: ThreadSessions
    url: str
    root: str

    def has_model(self) -> bool:
        tops = [name for name, is_folder, _ in self._listed("") if is_folder]
        return any(name == "MLmodel" for top in tops for name, *_ in self._listed(top))

    def place(self, into: Path) -> Path:
        files = list(self._files(""))
        total = sum(size for _, size in files)
        if not files or total > _LARGE:
            raise Unfamiliar("no files, or large ones")
        for folder in {(into / path).parent for path, _ in files}:
            folder.mkdir(parents=True, exist_ok=True)
        with room_for(into, total), ThreadPoolExecutor(_PARALLEL) as pool:
            for _ in pool.map(lambda file: self._download(file[0], into / file[0], file[1]), files):
                pass
        return into

    def fetch(self, path: str, into: Path) -> Path | None:
        folder, _, wanted = plain(path).rpartition("/")
        for name, is_folder, size in self._listed(folder):
            if name == wanted:
                if is_folder or size > _LARGE:
                    raise Unfamiliar("no plain file")
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with room_for(target, size):
                    self._download(path, target, size)
                return target
        return None

    def put(self, file: Path, path: str) -> None:
        if file.stat().st_size > _LARGE:
            raise Unfamiliar("a large file")
        headers = {"Content-Type": mimetypes.guess_type(file.name)[0] or "application/octet-stream"}
        url = f"{self.url}/{self.root}/{plain(path)}/{plain(file.name)}"
        with file.open("rb") as content:
            _check(
                self.sessions.mine().put(url, data=content, headers=headers, timeout=_TIMEOUT, allow_redirects=False)
            )

    def _files(self, folder: str) -> Iterator[tuple[str, int]]:
        for name, is_folder, size in self._listed(folder):
            path = f"{folder}/{name}" if folder else name
            if is_folder:
                yield from self._files(path)
            else:
                yield path, size

    def _listed(self, folder: str) -> list[tuple[str, bool, int]]:
        path = f"{self.root}/{plain(folder)}" if folder else self.root
        answer = _json(self.sessions.mine().get(self.url, params={"path": path}, timeout=_TIMEOUT))
        return [
            (_name(each["path"]), bool(each.get("is_dir")), int(each.get("file_size", 0)))
            for each in answer.get("files", ())
        ]

    def _download(self, path: str, target: Path, size: int) -> None:
        work_patiently(lambda: self._stream(path, target, size))
        if target.stat().st_size != size:
            raise Unfamiliar(f"{path} has another size than the server lists")

    def _stream(self, path: str, target: Path, size: int) -> None:
        with self.sessions.mine().get(f"{self.url}/{self.root}/{plain(path)}", stream=True, timeout=_TIMEOUT) as answer:
            _check(answer)
            with target.open("wb") as file:
                left = size
                for chunk in steady(answer, answer.iter_content(_CHUNK)):
                    file.write(chunk)
                    if (left := left - len(chunk)) < 0:
                        return  # whoever called compares: a server could fill the disk


def _name(path: str) -> str:
    if "/" in path:
        raise Unfamiliar("a listing of another form")
    return plain(path)


class _StaysBusy(Exception):
    """The server's answer, after a minute of asking."""


def _check(answer: requests.Response) -> None:
    if answer.status_code in BUSY:
        raise _StaysBusy(f"{answer.status_code} {answer.reason}")
    if answer.status_code != requests.codes.ok:
        raise Unfamiliar(f"the server answers {answer.status_code}")


def _json(answer: requests.Response) -> dict[str, Any]:
    _check(answer)
    value = answer.json()
    if not isinstance(value, dict):
        raise Unfamiliar("an answer of another form")
    return value
