"""The store that builds use: asked directly where it is of a kind that is known, else through MLflow's client."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kbuild.errors import KbuildError
from kbuild.model.bundle import ModelBundle, read_bundle
from kbuild.model.fetch import MlflowStore, ModelStore, RunFacts
from kbuild.model.find import RegisteredVersion
from kbuild.model.folders import is_local
from kbuild.model.kept import Kept
from kbuild.model.model_reference import ModelReference
from kbuild.model.shorthand import Choice, OfTracking, count_back, latest
from kbuild.model.sweep import Best
from kbuild.model.tracking import Run, Tracking, Unfamiliar, Version, reasons
from kbuild.refused import FULL, refused_by_system
from kbuild.tracking.description import NOTE, describe
from kbuild.tracking.image_tags import Tag
from kbuild.tracking.preflight import check_uri, without_userinfo
from kbuild.tracking.registry import find_model_id, is_of_model

# For so many seconds a run's tags are taken to be those that were read: a build that finds all made takes less.
_FRESH = 60.0
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


def open_store(tracking_uri: str, registry_uri: str | None = None, *, cache: Path | None = None) -> ModelStore:
    """The ``ModelStore`` at a tracking uri; nothing is asked yet. In ``cache`` is kept what a server never changes."""
    return DirectStore(tracking_uri=tracking_uri, registry_uri=registry_uri, cache=cache)


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectStore:
    """A ``ModelStore`` that answers as ``MlflowStore`` does, and mostly without importing MLflow.

    Whatever goes wrong or is not there is asked again through MLflow's client, whose errors are the ones users see.
    """

    tracking_uri: str
    registry_uri: str | None = None
    cache: Path | None = None
    _runs: dict[str, tuple[float, Run]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def fetch(self, reference: ModelReference, into: Path, *, kept: bool = False) -> ModelBundle:
        """See ModelStore. Files of a local store are read where they lie."""
        if reference.path is not None:
            return read_bundle(reference.path)
        keep = Kept(cache=self.cache) if kept and self.cache is not None else None
        # The model that is to be kept, told where it is known to be ready: before then its files may grow.
        wanted: list[tuple[str, str]] = []

        def read(store: Tracking) -> ModelBundle:
            location = _locate(store, reference, self._run)
            model_id = find_model_id(location)
            if keep is not None and model_id is not None and not is_local(location):
                found = keep.take(self._key(location), into)
                if found is not None:
                    return found
                model = store.logged_model(model_id)
                if model is not None and model.ready and model.location == location:
                    wanted.append((location, model_id))
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir(parents=True)
            return read_bundle(store.folder(location).place(into))

        bundle = self._ask(read, lambda mlflow: mlflow.fetch(reference, into))
        for location, model_id in wanted:
            # MLflow's client may have been asked a moment later, when an alias was another model's.
            if keep is not None and bundle.facts.model_id == model_id:
                keep.put(self._key(location), bundle)
        return bundle

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
            return store.folder(self._run(store, run_id).artifact_uri).fetch(path, into)

        return self._ask(read, lambda mlflow: mlflow.download(run_id, path, into))

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        """See ModelStore."""

        def write(store: Tracking) -> None:
            folder = store.folder(self._run(store, run_id).artifact_uri)
            for file in files:
                folder.put(file, path)

        self._ask(write, lambda mlflow: mlflow.upload(run_id, files, path))

    def read_run(self, run_id: str) -> RunFacts:
        """See ModelStore."""

        def read(store: Tracking) -> RunFacts:
            run = store.run(run_id)
            return RunFacts(tags=run.tags, parameters=run.parameters, metrics=run.metrics)

        return self._ask(read, lambda mlflow: mlflow.read_run(run_id))

    def best_child(self, reference: ModelReference, metric: str, *, lowest: bool = False) -> Best:
        """See ModelStore."""
        return self._mlflow().best_child(reference, metric, lowest=lowest)

    def choose(self, text: str, *, project: str | None) -> Choice:
        """See ModelStore. The newest run is what most commands are about, and found without MLflow."""
        back = count_back(text)
        if back is None:
            return self._mlflow().choose(text, project=project)

        def read(store: Tracking) -> Choice:
            return latest(OfTracking(store=store, run=self._run), back, project)

        return self._ask(read, lambda mlflow: mlflow.choose(text, project=project))

    def registered(self) -> list[str]:
        """See ModelStore."""
        return self._mlflow().registered()

    def fleet(self) -> list[RegisteredVersion]:
        """See ModelStore."""
        return self._mlflow().fleet()

    def versions(self, run_id: str, model_uri: str) -> list[str]:
        """See ModelStore."""
        return self._ask(
            lambda store: [each.named for each in self._versions(store, run_id, model_uri)],
            lambda mlflow: mlflow.versions(run_id, model_uri),
        )

    def _versions(self, store: Tracking, run_id: str, uri: str) -> list[Version]:
        return [each for each in store.versions_of(run_id) if self._is_of(uri, each, store)]

    def set_tags(self, run_id: str, tags: Mapping[str, str], *, model_uri: str | None = None) -> tuple[str, ...]:
        """See ModelStore. Tags that say so already are not written again."""

        def write(store: Tracking) -> tuple[str, ...]:
            run = self._run(store, run_id, since=_FRESH)
            versions = [] if model_uri is None else self._versions(store, run_id, model_uri)
            if not run.active and not versions:
                raise Unfamiliar("a deleted run")
            told = {**run.tags, **tags}
            note = describe(run.tags.get(NOTE), told, model_uri)
            noted = {} if note is None else {NOTE: note}
            if run.active and (changed := _changed({**tags, **noted}, run.tags)):
                store.set_run_tags(run_id, changed)
            for version in versions:
                if changed := _changed(tags, version.tags):
                    store.set_version_tags(version, changed)
                if text := describe(version.description, told, model_uri):
                    store.describe_version(version, text)
            # What the model says was written with what the run does: to look costs a question.
            model_id = find_model_id(model_uri) if noted and model_uri is not None else None
            if model_id is not None and (text := describe(store.model_tags(model_id).get(NOTE), told, model_uri)):
                store.set_model_tags(model_id, {NOTE: text})
            return tuple(version.named for version in versions)

        try:
            return self._ask(write, lambda mlflow: mlflow.set_tags(run_id, tags, model_uri=model_uri))
        finally:
            self._runs.pop(run_id, None)

    def _run(self, store: Tracking, run_id: str, *, since: float = float("inf")) -> Run:
        """The run, asked for once; what can change of it is not older than ``since`` seconds."""
        read, run = self._runs.get(run_id, (0.0, None))
        if run is None or time.monotonic() - read > since:
            run = store.run(run_id)
            self._runs[run_id] = time.monotonic(), run
        return run

    def _is_of(self, model_uri: str, version: Version, store: Tracking) -> bool:
        """Whether a version is of this model; where a copy leads to is asked for once."""
        keep = Kept(cache=self.cache) if self.cache is not None and version.created is not None else None
        key = self._key(version.name, version.version, str(version.created), version.source)

        def locate(name: str, number: str) -> str:
            if keep is None or (name, number) != (version.name, version.version):
                return store.version_location(name, number)
            if (location := keep.location(key)) is None:
                location = store.version_location(name, number)
                keep.put_location(key, location)
            return location

        return is_of_model(model_uri, version.name, version.version, version.source, locate)

    def _key(self, *parts: str) -> tuple[str, ...]:
        return without_userinfo(self.tracking_uri).rstrip("/"), *parts

    def _ask(self, lean: Callable[[Tracking], _Answer], otherwise: Callable[[MlflowStore], _Answer]) -> _Answer:
        reached = False
        check_uri(self.tracking_uri)
        try:
            for reason in reasons(os.environ, self.registry_uri, self.tracking_uri):
                raise Unfamiliar(reason)
            with open_tracking(self.tracking_uri) as store:
                reached = True  # what nobody answers is an error of its own
                return lean(store)
        except (Unfamiliar, OSError, sqlite3.Error) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise refused_by_system(error, cache=self.cache) from error
            # All that is asked here may be asked twice: reading changes nothing, and writing writes the same.
            _log.debug("asking MLflow's client: %s", error)
        return otherwise(self._mlflow(reached=reached))

    def _mlflow(self, *, reached: bool = False) -> MlflowStore:
        return MlflowStore(tracking_uri=self.tracking_uri, registry_uri=self.registry_uri, reached=reached)


def _locate(store: Tracking, reference: ModelReference, run: Callable[[Tracking, str], Run]) -> str:
    """The uri of a model's files; raises Unfamiliar where there is not exactly one model."""
    match reference:
        case ModelReference(model_id=str(model_id)):
            return _location(store, model_id)
        case ModelReference(name=str(name), alias=str(alias)):
            return _version_location(store, name, store.version_with_alias(name, alias))
        case ModelReference(name=str(name), version=str(version)):
            return _version_location(store, name, version)
        case ModelReference(run_id=str(run_id), name=name):
            return _run_location(store, run(store, run_id), name)
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
    return _location(store, model_id) if not prefix and re.fullmatch("m-[0-9a-f]{32}", model_id) else location


def _location(store: Tracking, model_id: str) -> str:
    model = store.logged_model(model_id)
    if model is None:
        raise Unfamiliar("a deleted model")
    return model.location


def _changed(tags: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if present.get(name) != value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """``refused`` is None, or why nothing could be written; ``versions`` are those of the model, as NAME/VERSION."""

    refused: str | None = None
    versions: tuple[str, ...] = ()


def write_tags(tags: Mapping[Tag, str], run_id: str | None, model_uri: str | None, store: ModelStore) -> Written:
    """Tag the run of a model and the versions of the model at this uri.

    That it could not be is no error: an image is whole without, and a model from a folder may name a run of another
    server.
    """
    if run_id is None:
        return Written(refused="the model names no run")
    try:
        return Written(versions=store.set_tags(run_id, {str(t): v for t, v in tags.items()}, model_uri=model_uri))
    except KbuildError as error:
        return Written(refused=error.message)
