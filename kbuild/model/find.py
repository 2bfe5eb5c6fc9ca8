"""What MLflow's client has of a model: where it is, its versions, and whether its run can be written to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kbuild.errors import AmbiguousModel, ModelNotFound, RunWithoutModel
from kbuild.model.model_reference import ModelReference
from kbuild.model.sweep import Best, find_best, find_children, make_choice, with_models
from kbuild.tracking.mlflow_client import (
    every_version,
    find_logged,
    find_newest,
    list_files,
    version_uri,
    version_with_alias,
)
from kbuild.tracking.registry import PROMPT_TAG, is_of_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_log = logging.getLogger(__name__)
_PAGE = 1000  # what MLflow's servers give at most


def resolve(client: MlflowClient, reference: ModelReference) -> str:
    match reference:
        case ModelReference(model_id=str(model_id)):
            return f"models:/{client.get_logged_model(model_id).model_id}"
        case ModelReference(name=str(name), alias=str(alias)):
            return version_uri(client, name, version_with_alias(client, name, alias))
        case ModelReference(name=str(name), version=str(version)):
            return version_uri(client, name, str(client.get_model_version(name, version).version))
        case ModelReference(run_id=str(run_id), name=name):
            return _resolve_run(client, run_id, name)
    raise ModelNotFound(f"{reference} is not kept by a tracking server")


def best_child(client: MlflowClient, reference: ModelReference, metric: str, *, lowest: bool) -> Best:
    """The best of a run's children that have a model; raises RunWithoutModel or ModelNotFound."""
    parent = client.get_run(str(reference.run_id))
    return find_best(client, parent, metric, lambda run: has_model(client, run, reference.name), lowest=lowest)


def _resolve_run(client: MlflowClient, run_id: str, name: str | None) -> str:
    run = client.get_run(run_id)
    try:
        return _resolve_own(client, run, name)
    except RunWithoutModel:
        children = with_models(find_children(client, run), lambda child: has_model(client, child, name))
        if not children:
            raise
    raise make_choice(run_id, children)


def has_model(client: MlflowClient, run: Run, name: str | None) -> bool:
    """Whether the run has a model of that name, or any; children's do not count."""
    # Older servers' searches tell no models.
    whole = run if run.outputs and run.outputs.model_outputs else client.get_run(run.info.run_id)
    try:
        _resolve_own(client, whole, name)
    except AmbiguousModel:
        return True
    except (RunWithoutModel, ModelNotFound):
        return False
    return True


def _resolve_own(client: MlflowClient, run: Run, name: str | None) -> str:
    run_id = run.info.run_id
    ids = [output.model_id for output in (run.outputs.model_outputs if run.outputs else ())]
    logged = [model for model_id in dict.fromkeys(ids) for model in find_logged(client, model_id)]
    ready = [model for model in logged if str(model.status) == "READY"]
    chosen = [model for model in ready if name in (None, model.name)]
    if len(chosen) == 1:
        return f"models:/{chosen[0].model_id}"
    if chosen:
        chosen.sort(key=lambda model: (str(model.name), str(model.model_id)))  # MLflow has no order of its own
        names = ", ".join(f"models:/{model.model_id} ({model.name})" for model in chosen)
        raise AmbiguousModel(f"run {run_id} logged {len(chosen)} models: {names}", hint="name one of them")
    # MLflow 2 kept models among the run's artifacts, without a LoggedModel.
    paths = [path for path in _artifact_models(run) if name in (None, path)]
    if len(paths) == 1:
        return f"runs:/{run_id}/{paths[0]}"
    if paths:
        names = ", ".join(f"runs:/{run_id}/{path}" for path in paths)
        raise AmbiguousModel(f"run {run_id} logged {len(paths)} models: {names}", hint="name one of them")
    if name is not None and ready:
        known = ", ".join(str(model.name) for model in ready)
        raise ModelNotFound(f"run {run_id} has no model {name!r}, only {known}")
    unfinished = [model.name for model in logged if str(model.status) != "READY"]
    detail = f" (its model {unfinished[0]!r} was never finished)" if unfinished else ""
    raise RunWithoutModel(
        f"run {run_id} logged no model{detail}",
        hint="register a PipelineML in pipeline_registry.py and run the pipeline again; kbuild's hook logs it",
    )


def versions_of(client: MlflowClient, run_id: str, model_uri: str) -> list[ModelVersion]:
    """The registered versions of a run that are of this model."""
    return [
        version
        for version in client.search_model_versions(f"run_id = '{run_id}'")
        if is_of_model(
            model_uri, version.name, str(version.version), str(version.source), client.get_model_version_download_uri
        )
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredVersion:
    """``version`` None: the versions of this model cannot be read. ``run_id`` is the run that it came from.

    ``created`` is in seconds since 1970; one that is not ``ready`` is still being copied, or failed to be.
    """

    name: str
    version: str | None
    aliases: tuple[str, ...] = ()
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0
    ready: bool = True

    def __str__(self) -> str:
        """The reference by which kbuild takes it."""
        return f"models:/{self.name}@latest" if self.version is None else f"models:/{self.name}/{self.version}"


def find_registered(client: MlflowClient) -> Iterator[RegisteredVersion]:
    """The newest and the aliased versions of every registered model that is no prompt, without run and tags."""
    from mlflow.exceptions import MlflowException

    newest: dict[str, str] = {}
    try:
        newest, whole = find_newest(client), True
    except MlflowException as error:
        _log.debug("all versions at once: %s", error)
        whole = False
    token = None
    while True:
        page = client.search_registered_models(max_results=_PAGE, page_token=token)
        for model in page:
            if PROMPT_TAG in (model.tags or {}):
                continue
            name = str(model.name)
            # A search tells the aliases, but of the versions not reliably the newest.
            try:
                if not whole:
                    newest |= find_newest(client, name)
            except MlflowException as error:
                # One that may not be read stops no other: whoever asks for it is told why.
                _log.debug("the versions of %s: %s", name, error)
                yield RegisteredVersion(name=name, version=None)
                continue
            chosen: dict[str, list[str]] = {newest[name]: []} if name in newest else {}
            for alias, version in (model.aliases or {}).items():
                chosen.setdefault(str(version), []).append(str(alias))
            for version in sorted(chosen, key=int):
                yield RegisteredVersion(name=name, version=version, aliases=tuple(sorted(chosen[version])))
        token = page.token
        if not token:
            return


def find_fleet(client: MlflowClient) -> Iterator[RegisteredVersion]:
    """As ``find_registered``, with run and tags; they are left out of what may not be read."""
    from mlflow.exceptions import MlflowException

    facts: dict[tuple[str, str], ModelVersion] = {}
    with contextlib.suppress(MlflowException):  # a server that tells nothing of any for one that may not be read
        facts = {(str(each.name), str(each.version)): each for each in every_version(client)}
    for found in find_registered(client):
        fact = facts.get((found.name, str(found.version)))
        if fact is None and found.version is not None:
            with contextlib.suppress(MlflowException):
                fact = client.get_model_version(found.name, found.version)
        yield found if fact is None else replace(found, run_id=fact.run_id or None, tags=dict(fact.tags or {}))


def _artifact_models(run: Run) -> list[str]:
    folders = [item.path for item in list_files(run) if item.is_dir]
    return [path for path in folders if any(item.path == f"{path}/MLmodel" for item in list_files(run, path))]
