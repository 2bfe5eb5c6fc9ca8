"""What a project says of its MLflow runs: ``tracking``, whose keys are those of kedro-mlflow's mlflow.yml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Strategy = Literal["fail", "truncate", "tag"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterSettings:
    """How the parameters of nodes become MLflow's.

    A mapping becomes one for each of its values, named with ``separator`` between the keys; of its own mappings, too,
    where ``recursive``. ``long_values`` is what is done with one that MLflow takes no room for.
    """

    flatten: bool = True
    recursive: bool = True
    separator: str = "."
    long_values: Strategy = "truncate"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingSettings:
    """The run that is started, and what is written to it. ``every_run`` also keeps runs without a model."""

    every_run: bool = False
    experiment: str | None = None
    artifact_location: str | None = None
    experiment_tags: Mapping[str, str] = field(default_factory=dict)
    restore_if_deleted: bool = False
    run_id: str | None = None
    run_name: str | None = None
    nested: bool = False
    disabled: tuple[str, ...] = ()
    disable_autologging: bool = False
    parameters: ParameterSettings = field(default_factory=ParameterSettings)
    log_parameters: bool = True
    log_arguments: bool = True
    log_versions: bool = True
    log_commit: bool = True
    log_pipeline: bool = True


def make_tracking(table: Mapping[str, Any]) -> TrackingSettings:
    """Of a table that the schema has checked; null says as much as nothing."""
    experiment, run = _table(table, "experiment"), _table(table, "run")
    created = _table(experiment, "create_experiment_kwargs")
    disable, log = _table(table, "disable_tracking"), _table(table, "log")
    parameters = _table(table, "params")
    mappings = _table(parameters, "dict_params")
    return TrackingSettings(
        every_run=table.get("every_run", False),
        experiment=experiment.get("name"),
        artifact_location=created.get("artifact_location"),
        experiment_tags={str(name): str(value) for name, value in _table(created, "tags").items()},
        restore_if_deleted=experiment.get("restore_if_deleted", False),
        run_id=run.get("id"),
        run_name=run.get("name"),
        nested=run.get("nested", False),
        disabled=tuple(disable.get("pipelines", ())),
        disable_autologging=disable.get("disable_autologging", False),
        parameters=ParameterSettings(
            flatten=mappings.get("flatten", True),
            recursive=mappings.get("recursive", True),
            separator=mappings.get("sep", "."),
            long_values=parameters.get("long_params_strategy", "truncate"),
        ),
        log_parameters=log.get("parameters", True),
        log_arguments=log.get("arguments", True),
        log_versions=log.get("dataset_versions", True),
        log_commit=log.get("commit", True),
        log_pipeline=log.get("pipeline", True),
    )


def find_disabled(run_params: Mapping[str, Any], disabled: Sequence[str]) -> str | None:
    """The first pipeline that a Kedro run was asked for and that is not to be tracked; None where there is none."""
    asked = run_params.get("pipeline_names") or [run_params.get("pipeline_name") or "__default__"]
    return next((str(name) for name in asked if name in disabled), None)


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return table.get(name) or {}
