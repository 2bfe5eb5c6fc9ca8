"""What a build asks of a tracking store, and how it is answered without MLflow's client.

Importing MLflow takes longer than everything else that ``kbuild image`` does when nothing has changed. So the few
questions of a build are answered from the store itself where its form is known exactly: a sqlite file of a schema that
was tested, or MLflow's documented REST API. Whatever else there may be is ``Unfamiliar``, and MLflow's client, which
stays the authority, is asked instead. No error is made up here: what is not found is also left to it to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

PROJECT = "mlflow.source.name"
"""The tag where training writes the project's name."""
USER = "mlflow.user"
NAME = "mlflow.runName"
NEWEST_FIRST = ("attributes.start_time DESC", "attributes.run_id ASC")
"""An order of MLflow's search."""


class Unfamiliar(Exception):
    """Only MLflow's client can answer this; the message says why. Never reaches users."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run; ``models`` are the ids of the models it logged, in order, each once. ``active`` ones are not deleted."""

    run_id: str
    artifact_uri: str
    active: bool
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    models: Sequence[str]

    @classmethod
    def told(cls, run: Mapping[str, Any]) -> Run:
        """Of the ``Run`` of MLflow's REST API."""
        info, data = run["info"], run["data"]
        outputs = run.get("outputs", {}).get("model_outputs", ())
        return cls(
            run_id=info["run_id"],
            artifact_uri=info["artifact_uri"],
            active=info["lifecycle_stage"] == "active",
            tags=texts(data.get("tags", ())),
            parameters=texts(data.get("params", ())),
            # JSON has no NaN and no infinity: the server writes these as texts.
            metrics={each["key"]: float(each["value"]) for each in data.get("metrics", ())},
            models=tuple(dict.fromkeys(output["model_id"] for output in outputs)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedModel:
    """A logged model that was not deleted; ``ready`` says that it was finished, ``location`` is its artifacts' uri."""

    model_id: str
    name: str
    location: str
    ready: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A version of a registered model; ``created`` tells it from an earlier one of that name and number."""

    name: str
    version: str
    source: str
    tags: Mapping[str, str]
    created: str | None = None
    description: str | None = None

    @property
    def named(self) -> str:
        """``NAME/VERSION``."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run as one chooses it: ``started`` in milliseconds since 1970, ``user`` as training names them."""

    run_id: str
    name: str
    started: int
    user: str | None

    @classmethod
    def told(cls, info: Mapping[str, Any], tags: Mapping[str, str]) -> TrainedRun:
        """Of MLflow's ``RunInfo``; older runs have their name among their tags."""
        name, started = info.get("run_name") or tags.get(NAME, ""), int(info.get("start_time") or 0)
        return cls(run_id=str(info["run_id"]), name=name, started=started, user=tags.get(USER))


@dataclass(frozen=True, kw_only=True, slots=True)
class RunQuery:
    """Runs that were not deleted, of experiments that were not: of a project, by a user, begun before a time."""

    project: str | None = None
    user: str | None = None
    before: int | None = None

    def filter(self) -> str:
        """The same in the words of MLflow's search; the texts are such as it can ask for."""
        tags = ((PROJECT, self.project), (USER, self.user))
        parts = [f"tags.`{tag}` = {quoted(text)}" for tag, text in tags if text is not None]
        return " and ".join(parts + ([] if self.before is None else [f"attributes.start_time < {self.before}"]))

    def search(self, experiments: Sequence[str], many: int) -> dict[str, Any]:
        """What MLflow's ``runs/search`` is asked."""
        found = {"experiment_ids": list(experiments), "filter": self.filter()}
        return {**found, "order_by": NEWEST_FIRST, "max_results": many}


def texts(pairs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tags or parameters of MLflow's REST API."""
    return {str(pair["key"]): str(pair.get("value", "")) for pair in pairs}


def quoted(text: str) -> str | None:
    """As MLflow's filters quote texts, which have no escapes: None for one that has both quotation marks."""
    return next((f"{mark}{text}{mark}" for mark in "'\"" if mark not in text), None)


class Tracking(Protocol):
    """An open store. Every method raises Unfamiliar for what it does not know for certain, absent things included."""

    def run(self, run_id: str) -> Run:
        """The run."""

    def newest(self, wanted: RunQuery, many: int) -> Sequence[TrainedRun]:
        """So many of the runs that are wanted, newest first, and of those of one time by their ids."""

    def logged_model(self, model_id: str) -> LoggedModel | None:
        """The model, None where it was deleted."""

    def version_with_alias(self, name: str, alias: str) -> str:
        """The number of the version that has this alias."""

    def version_location(self, name: str, version: str) -> str:
        """The uri of a registered version's files."""

    def versions_of(self, run_id: str) -> Sequence[Version]:
        """The registered versions that came from a run."""

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write tags of an active run."""

    def set_version_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Write tags of a registered version."""

    def describe_version(self, version: Version, text: str) -> None:
        """Write the description of a registered version."""

    def model_tags(self, model_id: str) -> Mapping[str, str]:
        """Tags of a logged model."""

    def set_model_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Write tags of a logged model."""

    def folder(self, location: str) -> Folder:
        """The artifacts at a uri."""


class Folder(Protocol):
    """A folder of artifacts; paths in it are relative, with forward slashes."""

    def has_model(self) -> bool:
        """Whether one of the folders in it is a model, as MLflow 2 kept them."""

    def place(self, into: Path) -> Path:
        """A local folder with all its files: the artifacts themselves where they are local, else a copy in ``into``."""

    def fetch(self, path: str, into: Path) -> Path | None:
        """Copy one file into a folder; returns where it is, None where there is nothing of that name."""

    def put(self, file: Path, path: str) -> None:
        """Store a file below the folder ``path``, whole or not at all."""


def reasons(environ: Mapping[str, str], registry_uri: str | None, tracking_uri: str) -> Iterator[str]:
    """Why this environment's store must be left to MLflow's client; nothing where it need not."""
    for name in environ:
        if name.startswith("DATABRICKS_RUNTIME") or (
            name.startswith("MLFLOW_")
            and (any(word in name for word in _CHANGING) or (name.startswith(_PREFIX) and name not in _KNOWN))
        ):
            yield f"{name} is set"
    registry = registry_uri or environ.get("MLFLOW_REGISTRY_URI") or tracking_uri
    if registry != tracking_uri:
        yield "the registry is another store"
    yield from _plugins()


_PREFIX = "MLFLOW_TRACKING_"
_KNOWN = frozenset(
    _PREFIX + name
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN", "INSECURE_TLS", "SERVER_CERT_PATH", "CLIENT_CERT_PATH")
)
# What these words stand in changes how MLflow reaches a store, or which part of it counts.
_CHANGING = ("WORKSPACE", "MULTIPART", "SQLALCHEMY", "REPLICA", "REDIRECT", "PROXY", "UC_")
# Of MLflow's entry points (docs: "MLflow Plugins") those that change how a store is reached.
_PLUGGED = ("mlflow.tracking_store", "mlflow.artifact_repository", "mlflow.model_registry_store")
_HEADERS = ("mlflow.request_header_provider", "mlflow.request_auth_provider")


@cache
def _plugins() -> tuple[str, ...]:
    points = metadata.entry_points()
    values = [point.value for group in (*_PLUGGED, *_HEADERS) for point in points.select(group=group)]
    return tuple(
        f"the plugin {value} is installed" for value in values if re.split("[.:]", value, maxsplit=1)[0] != "mlflow"
    )
