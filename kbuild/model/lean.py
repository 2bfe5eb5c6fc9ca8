"""The store that builds use: asked directly where it is of a kind that is known, else through MLflow's client."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kbuild.model.bundle import ModelBundle, read_bundle
from kbuild.model.fetch import MODEL_ID, MlflowStore, ModelStore, RunFacts
from kbuild.model.reference import ModelReference
from kbuild.model.tracking import Run, Tracking, Unfamiliar, reasons
from kbuild.tracking.registry import is_of_model

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


def open_tracking(uri: str) -> AbstractContextManager[Tracking]:
    """The store at a tracking uri, open until the block ends; raises Unfamiliar."""
    if uri.startswith("sqlite:///"):
        from kbuild.model.sqlite import open_sqlite

        return open_sqlite(uri)
    if uri.startswith(("http://", "https://")):
        from kbuild.model.rest import open_rest

        return open_rest(uri)
    raise Unfamiliar("a tracking uri of another kind")


def open_store(tracking_uri: str, registry_uri: str | None = None) -> ModelStore:
    """The ``ModelStore`` at a tracking uri; nothing is asked yet."""
    return LeanStore(tracking_uri=tracking_uri, registry_uri=registry_uri)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeanStore:
    """A ``ModelStore`` that answers as ``MlflowStore`` does, and mostly without importing MLflow.

    Whatever goes wrong or is not there is asked again through MLflow's client, whose errors are the ones users see.
    """

    tracking_uri: str
    registry_uri: str | None = None

    def fetch(self, reference: ModelReference, into: Path) -> ModelBundle:
        """See ModelStore. Files of a local store are read where they lie."""
        if reference.path is not None:
            return read_bundle(reference.path)

        def read(store: Tracking) -> ModelBundle:
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir(parents=True)
            return read_bundle(store.folder(_locate(store, reference)).place(into))

        return self._ask(read, lambda mlflow: mlflow.fetch(reference, into))

    def pin(self, reference: ModelReference) -> ModelReference:
        """See ModelStore."""
        name, alias = reference.name, reference.alias
        if name is None or alias is None:
            return reference
        return self._ask(
            lambda store: reference.at(store.version_with_alias(name, alias)), lambda mlflow: mlflow.pin(reference)
        )

    def download(self, run_id: str, path: str, into: Path) -> Path | None:
        """See ModelStore."""

        def read(store: Tracking) -> Path | None:
            folder = store.folder(store.run(run_id).artifact_uri)
            parent, _, name = path.rpartition("/")
            return folder.fetch(path, into) if name in folder.names(parent) else None

        return self._ask(read, lambda mlflow: mlflow.download(run_id, path, into))

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        """See ModelStore."""

        def write(store: Tracking) -> None:
            folder = store.folder(store.run(run_id).artifact_uri)
            for file in files:
                folder.put(file, path)

        self._ask(write, lambda mlflow: mlflow.upload(run_id, files, path))

    def read_run(self, run_id: str) -> RunFacts:
        """See ModelStore."""

        def read(store: Tracking) -> RunFacts:
            run = store.run(run_id)
            return RunFacts(tags=run.tags, parameters=run.parameters)

        return self._ask(read, lambda mlflow: mlflow.read_run(run_id))

    def registered(self) -> list[str]:
        """See ModelStore."""
        return self._mlflow().registered()

    def set_tags(self, run_id: str, tags: Mapping[str, str], *, model_uri: str | None = None) -> None:
        """See ModelStore. Tags that say so already are not written again."""

        def write(store: Tracking) -> None:
            run = store.run(run_id)
            versions = [
                version
                for version in (() if model_uri is None else store.versions_of(run_id))
                if model_uri is not None
                and is_of_model(model_uri, version.name, version.version, version.source, store.version_location)
            ]
            if not run.active and not versions:
                raise Unfamiliar("a deleted run")
            if run.active and (changed := _changed(tags, run.tags)):
                store.set_run_tags(run_id, changed)
            for version in versions:
                if changed := _changed(tags, version.tags):
                    store.set_version_tags(version, changed)

        self._ask(write, lambda mlflow: mlflow.set_tags(run_id, tags, model_uri=model_uri))

    def _ask(self, lean: Callable[[Tracking], _Answer], otherwise: Callable[[MlflowStore], _Answer]) -> _Answer:
        try:
            for reason in reasons(os.environ, self.registry_uri, self.tracking_uri):
                raise Unfamiliar(reason)
            with open_tracking(self.tracking_uri) as store:
                return lean(store)
        except (Unfamiliar, OSError, sqlite3.Error) as error:
            # All that is asked here may be asked twice: reading changes nothing, and writing writes the same.
            _log.debug("asking MLflow's client: %s", error)
        return otherwise(self._mlflow())

    def _mlflow(self) -> MlflowStore:
        return MlflowStore(tracking_uri=self.tracking_uri, registry_uri=self.registry_uri)


def _locate(store: Tracking, reference: ModelReference) -> str:
    """The uri of a model's files; raises Unfamiliar where there is not exactly one model."""
    match reference:
        case ModelReference(model_id=str(model_id)):
            return _location(store, model_id)
        case ModelReference(name=str(name), alias=str(alias)):
            return _version_location(store, name, store.version_with_alias(name, alias))
        case ModelReference(name=str(name), version=str(version)):
            return _version_location(store, name, version)
        case ModelReference(run_id=str(run_id), name=name):
            return _run_location(store, store.run(run_id), name)
    raise Unfamiliar("a reference of another kind")


def _run_location(store: Tracking, run: Run, name: str | None) -> str:
    logged = [model for model_id in run.models for model in [store.logged_model(model_id)] if model is not None]
    chosen = [model.location for model in logged if model.ready and name in (None, model.name)]
    if len(chosen) != 1:
        raise Unfamiliar(f"{len(chosen)} models")
    return chosen[0]


def _version_location(store: Tracking, name: str, version: str) -> str:
    location = store.version_location(name, version)
    prefix, _, model_id = location.partition("models:/")
    return _location(store, model_id) if not prefix and MODEL_ID.fullmatch(model_id) else location


def _location(store: Tracking, model_id: str) -> str:
    model = store.logged_model(model_id)
    if model is None:
        raise Unfamiliar("a deleted model")
    return model.location


def _changed(tags: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if present.get(name) != value}
