"""Questions to MLflow's client that it has no method for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kbuild.tracking.registry import make_filter

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion


def version_uri(client: MlflowClient, name: str, version: str) -> str:
    """The uri to download a registered version from: MLflow reads ``models:/NAME/VERSION`` of plain names alone."""
    if re.fullmatch(r"[\w.-]+( +[\w.-]+)*", name, re.ASCII):
        return f"models:/{name}/{version}"
    return str(client.get_model_version_download_uri(name, version))


def find_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a registered model, whatever is in its name."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(make_filter(name), page_token=token)
        found += [version for version in page if version.name == name]
        token = page.token
        if not token:
            return found


def find_logged(client: MlflowClient, model_id: str) -> list[LoggedModel]:
    """The model, or nothing: a run goes on naming a model that was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return [client.get_logged_model(model_id)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
