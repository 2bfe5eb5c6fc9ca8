"""The run or the experiment that MLflow's variables and kbuild.yml name: whether a training can be kept there."""

from __future__ import annotations

import os
from typing import Any

from kbuild.errors import TrackingUnavailable
from kbuild.project.tracking_settings import TrackingSettings

_NOWHERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")
_IN_SETTINGS = "kbuild.yml (tracking: run: id)"
# MLflow makes it with each new store.
_DEFAULT = "0"


def find_place(client: Any, settings: TrackingSettings, experiment: str) -> str | None:
    """Where artifacts of a run go that is started now, None where its experiment is not there yet.

    ``experiment`` is the one of a project that names none; ``client`` is None where the store is yet to be made. Raises
    TrackingUnavailable where what is named is not there or was deleted, and what MLflow raises of a store.
    """
    number, name, run_id = (
        os.environ.get(f"MLFLOW_{each}") or None for each in ("EXPERIMENT_ID", "EXPERIMENT_NAME", "RUN_ID")
    )
    said = "MLFLOW_RUN_ID" if run_id else _IN_SETTINGS
    if run_id := run_id or settings.run_id:
        return _find_run(client, run_id, said)
    if number is None and name is None:
        name = settings.experiment or experiment
        found = client and client.get_experiment_by_name(name)
        restored = settings.restore_if_deleted
    else:
        found = _find_experiment(client, number, name)
        restored = False
    if found is None:
        return None
    if not restored:
        check_experiment(found)
    return str(found.artifact_location)


def check_experiment(experiment: Any) -> None:
    """Raises TrackingUnavailable for one that was deleted."""
    if experiment.lifecycle_stage != "active":
        raise TrackingUnavailable(
            f"the MLflow experiment {experiment.name!r} was deleted, so no run can be started in it",
            hint=f"mlflow experiments restore --experiment-id {experiment.experiment_id}, "
            "or MLFLOW_EXPERIMENT_NAME=NAME chooses another",
        )


def _find_run(client: Any, run_id: str, said: str) -> str:
    unset = "unset MLFLOW_RUN_ID" if said == "MLFLOW_RUN_ID" else "take it out of kbuild.yml"
    found = client and _get(client.get_run, run_id)
    if found is None:
        raise TrackingUnavailable(
            f"{said} names the run {run_id}, which is not there",
            hint=f"{unset} to start a run, or see that MLFLOW_TRACKING_URI names the store that has it",
        )
    if found.info.lifecycle_stage != "active":
        raise TrackingUnavailable(
            f"the MLflow run {run_id}, which {said} names, was deleted",
            hint=f"mlflow runs restore --run-id {run_id}, or {unset} to start a run",
        )
    return str(found.info.artifact_uri)


def _find_experiment(client: Any, number: str | None, name: str | None) -> Any:
    """By MLflow's variables, of which the name counts more."""
    found = client and name and client.get_experiment_by_name(name)
    if found and number not in (None, found.experiment_id):
        raise TrackingUnavailable(
            f"MLFLOW_EXPERIMENT_ID is {number}, which is not that of the experiment {name!r}, "
            f"{found.experiment_id}, and MLFLOW_EXPERIMENT_NAME names that",
            hint="unset one of the two",
        )
    if name is not None:
        return found or None
    found = client and _get(client.get_experiment, number)
    if found is None and (client is not None or number != _DEFAULT):
        raise TrackingUnavailable(
            f"MLFLOW_EXPERIMENT_ID names the experiment {number!r}, which is not there",
            hint="unset MLFLOW_EXPERIMENT_ID; MLFLOW_EXPERIMENT_NAME=NAME chooses one, which is made where it lacks",
        )
    return found


def _get(ask: Any, named: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return ask(named)
    except MlflowException as error:
        if error.error_code in _NOWHERE:
            return None
        raise
