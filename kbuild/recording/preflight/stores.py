"""Where the model is to go: the tracking server, its artifact store, and room on this machine's disks."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from kbuild.errors import KbuildError, OutputError, RecordingError, TrackingUnavailable
from kbuild.project.model_settings import default_artifact_uri, default_tracking_uri
from kbuild.project.tracking_settings import TrackingSettings
from kbuild.recording.mlflow_run import patience, quiet_mlflow
from kbuild.recording.preflight.fault import Fault, did_you_mean
from kbuild.recording.run.named import find_place
from kbuild.tracking.mlflow_client import is_absent
from kbuild.tracking.preflight import check_server, make_error, one_line, without_userinfo
from kbuild.training.described import is_persisted

# What a model needs besides its artifacts: code, examples, a table of packages.
_LEAST = 64e6
# Seconds that a remote artifact store may take to write one byte.
_STORE_TIMEOUT = 20.0
_SQLITE = "sqlite:///"
_LOCAL_SCHEMES = ("", "file")
# The same one each time, since not everybody who may write may delete.
_PROBE = ".kbuild-probe"


def check_tracking(
    project_path: Path, experiment: str, settings: TrackingSettings | None = None
) -> tuple[str | None, list[Fault]]:
    """Where the experiment keeps artifacts, None where that is not known yet; and what is wrong with the server.

    ``experiment`` is the one of a project that names none. Nothing is made or changed there.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = _find_uri(project_path)
    settings = settings or TrackingSettings()
    location = settings.artifact_location
    if location is None and uri == default_tracking_uri(project_path):
        location = default_artifact_uri(project_path)
    try:
        path = _database(uri)
        if path is not None:
            _check_writable(path if uri.startswith(_SQLITE) else path / "x", "MLflow's database")
            if not path.exists():
                find_place(None, settings, experiment)
                return location, []
        with quiet_mlflow(), patience(1):
            check_server(uri, logs_models=True)
            if (run := mlflow.active_run()) is not None and not settings.nested:
                return str(run.info.artifact_uri), []
            return find_place(mlflow.MlflowClient(uri), settings, experiment) or location, []
    except KbuildError as error:
        return None, [Fault(about="tracking", error=error)]
    except (MlflowException, OSError) as error:
        return None, [Fault(about="tracking", error=make_error(uri, error))]


def _find_uri(project_path: Path) -> str:
    import mlflow

    if mlflow.tracking.is_tracking_uri_set():
        return str(mlflow.get_tracking_uri())
    return default_tracking_uri(project_path)


def check_prompts(project_path: Path, prompts: Any) -> Iterator[Fault]:
    """Those of ``log_model_kwargs`` that the registry surely has not; MLflow looks them up once the model is there."""
    import mlflow
    from mlflow.exceptions import MlflowException

    named = [each for each in prompts if isinstance(each, str)] if isinstance(prompts, list | tuple) else []
    uri = _find_uri(project_path)
    path = _database(uri)
    client = None if not named or (path is not None and not path.exists()) else mlflow.MlflowClient(uri)
    for each in named:
        known: list[str] = []
        try:
            if client is not None:
                with quiet_mlflow(), patience(1):
                    if _has_prompt(client, each.removeprefix("prompts:/")):
                        continue
                    known = [found.name for found in client.search_prompts()]
        except MlflowException:  # a server without prompts says so in words of its own
            continue
        error = RecordingError(
            f"prompts names {each!r}, which is not registered",
            hint=did_you_mean(
                re.split("[/@]", each.removeprefix("prompts:/"))[0],
                known,
                "register it first: mlflow.genai.register_prompt(name=…, template=…)",
            ),
        )
        yield Fault(about="log_model_kwargs", error=error)


def _has_prompt(client: Any, name: str) -> bool:
    """Of ``NAME``, ``NAME/VERSION`` or ``NAME@ALIAS``."""
    from mlflow.exceptions import MlflowException

    name, mark, which = re.fullmatch("([^/@]*)([/@]?)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if client.get_prompt(name) is None:
        return False
    try:
        asked = client.get_prompt_version_by_alias if mark == "@" else client.get_prompt_version
        return not mark or asked(name, which) is not None
    except MlflowException as error:
        if is_absent(error):
            return False
        raise


def check_artifacts(location: str) -> Iterator[Fault]:
    """Whether the artifact store takes a file, which is deleted again where that is allowed."""
    local = _local_path(location)
    try:
        if local is not None:
            _check_writable(local / "x", "the artifact store")
        elif urlsplit(location).scheme != "dbfs":  # MLflow writes there below runs alone
            _write_remote(location)
    except KbuildError as error:
        yield Fault(about="artifacts", error=error)


def check_room(datasets: Mapping[str, Any], names: frozenset[str], location: str | None) -> Iterator[Fault]:
    """Room for the files of the inputs as they are now: once where they are checked, once more in a local store."""
    needed = sum(_size_of(datasets.get(name)) for name in names) + _LEAST
    places = {"temporary files": Path(tempfile.gettempdir())}
    local = None if location is None else _local_path(location)
    if local is not None:
        places["the artifact store"] = _nearest(local)
    for what, place in places.items():
        together = sum(each.stat().st_dev == place.stat().st_dev for each in places.values())
        free = shutil.disk_usage(place).free
        if free < needed * together:
            yield Fault(
                about="disk",
                error=OutputError(
                    f"the disk of {what} ({place}) has {free / 1e6:.0f} MB left, and the model's files take "
                    f"{needed * together / 1e6:.0f} MB there",
                    hint="make room; TMPDIR=FOLDER chooses another place for temporary files",
                ),
            )
            return


def _database(uri: str) -> Path | None:
    """The file or folder of a store on this machine, None for a server."""
    if uri.startswith(_SQLITE):
        return Path(uri.removeprefix(_SQLITE).partition("?")[0])
    # MLflow's word for the workspace that the user is signed in to.
    return None if uri.startswith("databricks") else _local_path(uri)


def _local_path(uri: str) -> Path | None:
    parts = urlsplit(uri)
    if parts.scheme not in _LOCAL_SCHEMES:
        return None
    return Path(url2pathname(parts.path)) if parts.scheme else Path(uri)


def _nearest(path: Path) -> Path:
    """The folder that is there, of this one or its parents."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def _check_writable(path: Path, what: str) -> None:
    """Write and delete a file where ``path`` is or will be."""
    if path.is_file() and not os.access(path, os.W_OK):
        raise TrackingUnavailable(f"{what} {path} cannot be written", hint=f"chmod u+w {path}, or name another place")
    place = _nearest(path.parent)
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".kbuild-"):
            pass
    except OSError as error:
        raise TrackingUnavailable(
            f"{what} cannot be written in {place}: {error.strerror or error}",
            hint="make that folder writable, or name another place with MLFLOW_TRACKING_URI",
        ) from error


def _write_remote(location: str) -> None:
    """In a thread of its own, since clients of stores wait for minutes."""
    failed: list[BaseException] = []
    written = threading.Event()

    def probe() -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        try:
            with tempfile.TemporaryDirectory(prefix="kbuild-preflight-") as folder:
                Path(folder, _PROBE).write_bytes(b"\n")
                store = get_artifact_repository(location)
                store.log_artifact(str(Path(folder, _PROBE)))
        except BaseException as error:  # noqa: BLE001  each store's client raises errors of its own; told below
            failed.append(error)
            return
        written.set()
        with suppress(Exception):  # a store may delete nothing, or not for everybody: that is no need of training's
            store.delete_artifacts(_PROBE)

    thread = threading.Thread(target=probe, daemon=True)
    with quiet_mlflow(), patience(1):
        thread.start()
        thread.join(_STORE_TIMEOUT)
    shown = without_userinfo(location)
    if not failed and not written.is_set():
        raise TrackingUnavailable(
            f"the artifact store {shown} did not take a file within {_STORE_TIMEOUT:g} seconds",
            hint="see that it answers from here",
        )
    if failed:
        raise TrackingUnavailable(
            f"the artifact store {shown} takes no file: {one_line(failed[0])}",
            hint="see that its client is installed, that it answers from here, and that the credentials may write",
        ) from failed[0]


def _size_of(dataset: Any) -> float:
    """Bytes of what would be loaded now, 0 where that cannot be told."""
    try:
        if dataset is None or not is_persisted(dataset) or getattr(dataset, "_protocol", "file") not in _LOCAL_SCHEMES:
            return 0.0
        path = _newest(Path(str(dataset._filepath)), getattr(dataset, "_version", None))
        if path.is_dir():
            return float(sum(each.stat().st_size for each in path.rglob("*") if each.is_file()))
        return float(path.stat().st_size) if path.is_file() else 0.0
    except Exception:  # noqa: BLE001  a dataset of the user's may raise anything, and files go while they are counted
        return 0.0


def _newest(path: Path, version: Any) -> Path:
    """Where Kedro keeps the version that is loaded. Its dataset is not asked, which would load that version later."""
    if version is None:
        return path
    wanted = (
        [version.load] if version.load is not None else sorted((each.name for each in path.iterdir()), reverse=True)
    )
    return next(each for name in wanted if (each := path / name / path.name).exists())
