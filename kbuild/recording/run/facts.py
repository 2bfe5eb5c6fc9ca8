"""What is written to a run besides its model: its pipeline before the first node, and the rest at its end.

Parameters are read before the first node and written after the last: MLflow changes none, and what a node logs itself
is to count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from kbuild.errors import KbuildError, RecordingError
from kbuild.project.tracking_settings import TrackingSettings
from kbuild.recording.mlflow_run import patience, quiet_mlflow
from kbuild.recording.run.parameters import Parameters, collect_parameters, make_name
from kbuild.recording.run.picture import draw
from kbuild.tracking.preflight import one_line
from kbuild.training.described import find_dataset
from kbuild.training.pipeline_ml import PipelineML

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

PIPELINE_FILE = "pipeline.json"
PICTURE_FILE = "pipeline.svg"
_VERSION = "kedro.version."
# What MLflow's servers take at once (its REST API, "Log Batch").
_BATCH = 100
_logger = logging.getLogger(__name__)


def log_start(run_id: str, pipeline: Pipeline, catalog: Any, settings: TrackingSettings) -> Parameters:
    """Write the pipeline in Kedro's own JSON, and drawn; returns the parameters for the run's end, see ``log_end``.

    Raises RecordingError for a parameter that is too long where that is to fail, and where MLflow cannot keep it.
    """
    import mlflow

    found = Parameters()
    with _one_error("what this run is given"):
        if settings.log_parameters:
            found = collect_parameters(pipeline, catalog, settings.parameters)
            for note in found.notes:
                _logger.warning("%s.", note)
        if settings.log_pipeline:
            client = mlflow.MlflowClient()
            client.log_text(run_id, pipeline.to_json(), PIPELINE_FILE)
            client.log_text(run_id, _draw(pipeline), PICTURE_FILE)
    return found


def _draw(pipeline: Pipeline) -> str:
    if not isinstance(pipeline, PipelineML) or not pipeline.trains:
        return draw({"pipeline": pipeline})
    travels = {*pipeline.binding.training.all_outputs(), *pipeline.all_outputs()} & pipeline.inference.inputs()
    both = {"training": pipeline, "inference": pipeline.inference}
    return draw(both, request={pipeline.input_name, *pipeline.input_names}, travels=travels)


def keep_facts(
    run_id: str,
    settings: TrackingSettings,
    found: Parameters | None,
    versions: Callable[[], Mapping[str, str]] | None = None,
) -> str | None:
    """Write parameters and versions of a run that fails; returns None, or why they are not there, which must not hide
    the failure."""
    try:
        _log_parameters(run_id, found, patient=False)
        if versions is not None and settings.log_versions:
            _log_versions(run_id, versions(), patient=False)
    except RecordingError as error:
        return error.message
    return None


def _log_parameters(run_id: str, found: Parameters | None, *, patient: bool = True) -> None:
    """Write those that the run does not have yet; raises RecordingError. ``patient``: a busy server is waited for."""
    import mlflow

    if found is None or not (found.values or found.tags):
        return
    with _one_error("what this run is given", patient=patient):
        client = mlflow.MlflowClient()
        known = client.get_run(run_id).data.params
        for name in sorted(known.keys() & found.values):
            if known[name] != found.values[name]:
                _logger.warning("The run has the parameter %r with another value, and MLflow changes none.", name)
        _log(client, run_id, {name: value for name, value in found.values.items() if name not in known}, found.tags)


def log_end(
    run_id: str, pipeline: Pipeline, catalog: Any, settings: TrackingSettings, found: Parameters | None
) -> None:
    """Write the parameters, and which versions of versioned datasets were loaded and saved; raises RecordingError."""
    _log_parameters(run_id, found)
    if settings.log_versions:
        _log_versions(run_id, find_versions(pipeline, catalog))


def _log_versions(run_id: str, versions: Mapping[str, str], *, patient: bool = True) -> None:
    import mlflow

    tags = {make_name(f"{_VERSION}{name}"): version for name, version in versions.items()}
    if tags:
        with _one_error("which versions of datasets it used", patient=patient):
            _log(mlflow.MlflowClient(), run_id, {}, tags)


def find_versions(pipeline: Pipeline, catalog: Any, *, whole: bool = True) -> dict[str, str]:
    """Of the versioned datasets of a pipeline that ran: the version that was saved, else the one that was loaded.

    Where it did not run ``whole``, one that no node came to save has none.
    """
    from kedro.io import DatasetError

    made = pipeline.all_outputs()
    versions = {}
    for name in sorted(pipeline.datasets()):
        dataset: Any = find_dataset(name, catalog)
        if getattr(dataset, "_version", None) is None:
            continue
        try:
            version = dataset.resolve_save_version() if name in made else dataset.resolve_load_version()
            if name in made and not whole and dataset.resolve_load_version() != version:
                continue
        except DatasetError:
            continue  # nothing was loaded or saved, an optional output say
        if version is not None:
            versions[name] = str(version)
    return versions


def _log(client: Any, run_id: str, values: Mapping[str, str], tags: Mapping[str, str]) -> None:
    from mlflow.entities import Param, RunTag

    params = iter([Param(name, value) for name, value in values.items()])
    kept = iter([RunTag(name, value) for name, value in tags.items()])
    while True:
        some, others = list(islice(params, _BATCH)), list(islice(kept, _BATCH))
        if not some and not others:
            return
        client.log_batch(run_id, params=some, tags=others)


@contextmanager
def _one_error(what: str, *, patient: bool = True) -> Iterator[None]:
    """Turns what MLflow's store, or the place of its artifacts, raises into one line; it may be anything."""
    try:
        with quiet_mlflow(), patience() if patient else patience(1):
            yield
    except KbuildError:
        raise
    except Exception as error:
        raise RecordingError(
            f"MLflow cannot keep {what}: {type(error).__name__}: {one_line(error)}",
            hint="see that the tracking server and the place of its artifacts can be written to; "
            "tracking.log in kbuild.yml says what is kept",
        ) from error
