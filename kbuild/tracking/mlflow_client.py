"""Questions to MLflow's client that it has no method for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kbuild.errors import ModelNotFound
from kbuild.tracking.description import NOTE, describe
from kbuild.tracking.registry import find_model_id, make_filter

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo, LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException


# Versions that a server is asked for at once: of MLflow's own 10,000 a busy one is not done before the client gives up.
# Where the first is wanted a few do, for a filter may find those of other names too.
_MANY, _FEW = 500, 20
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


def is_absent(error: MlflowException) -> bool:
    """Whether MLflow says that what was asked for by its name is not there: by a code, and of a prompt up to MLflow 3.1
    by words alone."""
    return error.error_code in _ABSENT or (error.error_code == "INTERNAL_ERROR" and "not found" in error.message)


def version_uri(client: MlflowClient, name: str, version: str) -> str:
    """The uri to download a registered version from: MLflow reads ``models:/NAME/VERSION`` of plain names alone."""
    if re.fullmatch(r"[\w.-]+( +[\w.-]+)*", name, re.ASCII):
        return f"models:/{name}/{version}"
    return str(client.get_model_version_download_uri(name, version))


def find_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a registered model, whatever is in its name."""
    return [version for version in _search(client, make_filter(name)) if version.name == name]


def every_version(client: MlflowClient) -> Iterator[ModelVersion]:
    """Every version of every registered model."""
    return _search(client, "")


def version_with_alias(client: MlflowClient, name: str, alias: str) -> str:
    """The version that an alias names. MLflow's own ``latest`` is searched for: to older servers it is no alias."""
    if alias.lower() == "latest":
        # Of one name the newest comes first.
        for version in _search(client, make_filter(name), page=_FEW):
            if version.name == name:
                return str(version.version)
        client.get_registered_model(name)  # MLflow says it where there is no such model
        raise ModelNotFound(f"the registered model {name!r} has no version")
    return str(client.get_model_version_by_alias(name, alias).version)


def find_newest(client: MlflowClient, name: str | None = None) -> dict[str, str]:
    """The newest version of each registered model, or of the one of this name; nothing of those without versions."""
    newest: dict[str, int] = {}
    for version in every_version(client) if name is None else find_versions(client, name):
        newest[version.name] = max(int(version.version), newest.get(version.name, 0))
    return {each: str(number) for each, number in newest.items()}


def _search(client: MlflowClient, text: str, page: int = _MANY) -> Iterator[ModelVersion]:
    token = None
    while True:
        # MLflow's own order has tagged versions move to another page while pages are read.
        found = client.search_model_versions(
            text, max_results=page, order_by=["name ASC", "version_number DESC"], page_token=token
        )
        yield from found
        token = found.token
        if not token:
            return


def find_logged(client: MlflowClient, model_id: str) -> list[LoggedModel]:
    """The model, or nothing: a run goes on naming a model that was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return [client.get_logged_model(model_id)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []


def list_files(run: Run, path: str | None = None) -> list[FileInfo]:
    """The files and folders of a run's own artifacts at a path.

    MLflow's client itself looks for the run's logged models too, and fails where a server of MLflow 2 has none.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return list(get_artifact_repository(run.info.artifact_uri).list_artifacts(path))


def write_told(
    client: MlflowClient,
    run_id: str,
    tags: Mapping[str, str],
    versions: Sequence[ModelVersion],
    model_uri: str | None,
) -> None:
    """Tag a run, where it is not deleted or has no versions, and versions of its model; and what they say of the image.

    Raises what MLflow raises.
    """
    from mlflow.exceptions import MlflowException

    known, active = {}, False
    try:
        run = client.get_run(run_id)
        known, active = run.data.tags, run.info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" or not versions:
            raise
    told = {**known, **tags}
    note = describe(known.get(NOTE), told, model_uri)
    if not versions or active:
        for name, value in {**tags, **({} if note is None else {NOTE: note})}.items():
            client.set_tag(run_id, name, value)
    for version in versions:
        for name, value in tags.items():
            client.set_model_version_tag(version.name, version.version, name, value)
        if text := describe(version.description, told, model_uri):
            client.update_model_version(version.name, version.version, text)
    # Also where the run says so already: whoever was asked before may have come no further.
    model_id = None if model_uri is None or describe(None, told, model_uri) is None else find_model_id(model_uri)
    if model_id is not None and (text := describe(client.get_logged_model(model_id).tags.get(NOTE), told, model_uri)):
        client.set_logged_model_tags(model_id, {NOTE: text})
