"""record_model: log the inference pipeline of a training run to MLflow, whole and checked, or not at all.

The model is first saved in a temporary folder, asked for its example, and loaded in a clean process. Only then is
it logged, and what is logged are those same files.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.answers import Tolerance, compare, compare_texts
from kbuild.errors import RecordingError
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.changes import check_changes
from kbuild.recording.clean_check import Answer, ask_in_clean_process
from kbuild.recording.example import is_chosen, make_example
from kbuild.recording.input.delivery import deliver, find_change
from kbuild.recording.input.typed import find_typed_parameters
from kbuild.recording.log import log_checked_files
from kbuild.recording.mlflow_run import GitState, quiet_mlflow
from kbuild.recording.provenance import note_inputs
from kbuild.recording.saving import Draft, record_prediction, save_model
from kbuild.recording.shipment.closure import find_owners, pin
from kbuild.recording.shipment.pinning import make_environment
from kbuild.recording.shipment.shipping import (
    Shipment,
    brings_kedro,
    find_blocked,
    plan_shipment,
    stage_code,
    tell_kedro,
)
from kbuild.recording.shipment.tracing import find_pickled_modules
from kbuild.training.artifacts import settle_inputs
from kbuild.training.described import find_dataset, is_partitioned
from kbuild.training.pipeline_ml import PipelineML
from kbuild.training.pyfunc import KedroPipelineModel
from kbuild.training.staleness import check_fresh

_logger = logging.getLogger(__name__)
# How often a package may be added that only loading the model showed to be needed.
_MAX_ADDED_PACKAGES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedModel:
    """A model that was logged: ``model_uri`` is ``models:/<model id>``; ``reused`` inputs are of an earlier run.

    ``notes`` are lines for the user to read.
    """

    run_id: str
    model_id: str
    model_uri: str
    name: str
    reused: tuple[str, ...]
    notes: tuple[str, ...] = ()


def record_model(
    pipeline_ml: PipelineML,
    catalog: Any,
    *,
    run_id: str,
    package_name: str | None = None,
    settings: TrainingSettings | None = None,
    captured: Mapping[str, Any] | None = None,
    git: GitState | None = None,
    licence: str | None = None,
) -> RecordedModel:
    """Log the model of a finished training run.

    Args:
        pipeline_ml: what ran, no more and no less; its inference pipeline is logged.
        catalog: the catalog of that run.
        run_id: the MLflow run to log to, at the tracking uri that MLflow is set to.
        package_name: the project's package, whose code travels with the model.
        settings: rows of the example, and whether to check in a clean process.
        captured: data of in-memory datasets that the runner has released since.
        git: the project's commit, for the model's metadata.
        licence: the project's, an SPDX expression, for the same.

    Raises RecordingError saying why the model could not be logged whole; nothing of it is left then.
    """
    settings = settings or TrainingSettings()
    captured = {**(captured or {}), **find_typed_parameters(pipeline_ml.inference, catalog)}
    check_fresh(pipeline_ml.binding, pipeline_ml.nodes)
    with tempfile.TemporaryDirectory(prefix="kbuild-record-") as folder, quiet_mlflow():
        work = Path(folder)
        model = KedroPipelineModel(pipeline_ml=pipeline_ml, catalog=catalog)
        settled = settle_inputs(model.sources, catalog, work / "inputs", captured)
        artifacts = settled.artifacts
        model.sources, model._values = settled.sources, settled.values
        for name, reason in settled.as_values.items():
            _logger.warning("The input %r goes into the model as its value, pickled: %s.", name, reason)
        data, has_data = _find_data(model.input_name, catalog, captured)
        example = make_example(
            model, data, has_data=has_data, log_model_kwargs=pipeline_ml.log_model_kwargs, rows=settings.example_rows
        )
        if settings.check:
            shown = example.input_example if example.known is None else example.known
            check_changes(model, artifacts, shown, settings.tolerance)
        draft = Draft(
            model=model,
            artifacts=artifacts,
            example=example,
            package_name=package_name,
            log_model_kwargs=pipeline_ml.log_model_kwargs,
            git=git,
            licence=licence,
            reused=tuple(pipeline_ml.reused_names),
            tolerance=settings.tolerance,
        )
        saved = _save_provable(draft, _find_modules(model), work, settings)
        made = pipeline_ml.binding.made_names - set(draft.reused)
        note_inputs(run_id, artifacts, made=made, reused=draft.reused)
        model_id = log_checked_files(saved.files, pipeline_ml.log_model_kwargs, run_id)
    return RecordedModel(
        run_id=run_id,
        model_id=model_id,
        model_uri=f"models:/{model_id}",
        name=pipeline_ml.log_model_kwargs["name"],
        reused=draft.reused,
        notes=saved.notes,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saved:
    """The files that are to be logged, and what the user is to know of how they were checked."""

    files: Path
    notes: tuple[str, ...] = ()


def _find_data(name: str, catalog: Any, captured: Mapping[str, Any]) -> tuple[Any, bool]:
    from kedro.io import DatasetError

    if name in captured:
        return captured[name], True
    dataset = find_dataset(name, catalog)
    if dataset is None:
        return None, False
    try:
        return dataset.load(), True
    except DatasetError:
        # Released, or never made in this run: the example says so if nothing else gives a signature.
        return None, False


def _find_modules(model: KedroPipelineModel) -> set[str]:
    """Modules that the pickled model and its loaded inputs refer to."""
    modules = find_pickled_modules(model)
    for name, value in model.loaded_inputs.items():
        # The parts of a partitioned dataset are loaded when a node asks for them.
        # One at a time: together they need not fit into memory.
        parts = (load() for load in value.values()) if is_partitioned(value) else (value,)
        modules |= model.sources[name].modules.union(*map(find_pickled_modules, parts))
    return modules


def _save_provable(draft: Draft, modules: set[str], work: Path, settings: TrainingSettings) -> _Saved:
    """Save and check the model, without Kedro where nothing served needs it and the clean process shows as much."""
    lean = plan_shipment(modules, draft.package_name, lean=draft.model.runner is None)
    if not lean.changed:
        told = (tell_kedro(lean, lean.kedro_for),) if lean.kedro_for else ()
        return _save_checked(draft, lean, work, settings, told)
    whole = plan_shipment(modules, draft.package_name)
    if not settings.check or draft.example.input_example is None:
        why = "nothing shows that the model does without it: " + (
            "it has no input example" if settings.check else "[tool.kbuild.training] check is false"
        )
    else:
        try:
            return _save_checked(draft, lean, work / "lean", settings)
        except _OtherThanInTraining as error:
            why = f"without it, {error.message}"
            shutil.rmtree(work / "lean")  # its artifacts are copies
    return _save_checked(draft, whole, work / "whole", settings, (tell_kedro(whole, why),))


def _save_checked(
    draft: Draft, shipment: Shipment, work: Path, settings: TrainingSettings, told: tuple[str, ...] = ()
) -> _Saved:
    """Save the model, record its prediction, check it; a package that turns out to be missing is added."""
    code_paths = [
        *stage_code(shipment.code, work / "code", shipment.changed),
        *draft.log_model_kwargs.get("code_paths", []),
    ]
    shipped = [Path(path).stem for path in code_paths if not path.endswith(".dist-info")]
    requirements = list(shipment.requirements)
    for attempt in range(_MAX_ADDED_PACKAGES + 1):
        environment = make_environment(requirements, draft.log_model_kwargs, work / f"environment-{attempt}")
        saved = work / f"model-{attempt}"
        save_model(draft, environment, code_paths, saved)
        recorded = record_prediction(saved)
        _compare_own(draft, recorded, settings.tolerance)
        if not settings.check:
            return _Saved(files=saved, notes=told)
        answer = ask_in_clean_process(
            saved,
            blocked=find_blocked(environment.closure.versions, shipped),
            shipped=shipped,
            closure=environment.closure.versions,
            timeout=settings.check_timeout,
        )
        if answer.error is None:
            _compare(recorded, answer, settings.tolerance)
            return _Saved(files=saved, notes=(*told, *_tell_open(answer)))
        owners = find_owners().get(answer.missing or "", [])
        chosen = any(draft.log_model_kwargs.get(name) for name in ("conda_env", "pip_requirements"))
        asks_for_kedro = bool(shipment.changed) and any(map(brings_kedro, owners))
        if chosen or not owners or owners[0] in environment.closure.versions or asks_for_kedro:
            break
        requirements.append(pin(owners[0]))
        shutil.rmtree(saved)
    raise _OtherThanInTraining(
        f"the model cannot be loaded and asked in a clean process: {answer.error}",
        hint=f"{_advise(answer)}; [tool.kbuild.training] check = false in pyproject.toml turns the check off",
    )


def _tell_open(answer: Answer) -> tuple[str, ...]:
    """What the check could not see, where the machine gives it no root of its own."""
    if answer.shut_off is None:
        return ()
    return (f"The check hid this machine's files from Python alone, not from C libraries: {answer.shut_off}",)


def _compare_own(draft: Draft, recorded: str | None, tolerance: Tolerance) -> None:
    """The pipeline's own answer with that of the saved model to the request."""
    if recorded is None or draft.example.own is None:
        return
    own, served = json.loads(draft.example.own), json.loads(recorded)
    if is_chosen(draft.log_model_kwargs):
        # Whoever writes a signature may well let whole numbers come as floats.
        own, served = (json.loads(text, parse_int=float) for text in (draft.example.own, recorded))
    fault = compare(own, served, tolerance).fault
    if fault is None:
        return
    example = draft.example.input_example
    schema = None if draft.example.signature is None else draft.example.signature.inputs
    given = deliver(example[0] if isinstance(example, tuple) else example, schema, draft.model.form)
    change = find_change(draft.example.known, given)
    step = "" if change is None else f"; on its way {change}"
    raise RecordingError(
        f"the saved model answers the example otherwise than the inference pipeline itself: {fault}{step}",
        hint="leave out signature and input_example in log_model_kwargs, or write them so that this stays as it is"
        if is_chosen(draft.log_model_kwargs)
        else "see that the inference pipeline uses no index of its rows, no state, clock or chance of its own",
    )


def _advise(answer: Answer) -> str:
    """What to do about an error that the clean process met."""
    if answer.file is not None and answer.missing is None:
        inside = "/code/" in answer.file
        where = "a place beside the code that travels" if inside else "this machine"
        return (
            f"{Path(answer.file).name} is read from {where}, where the image has no such file: put it into the "
            "project's package, name its folder in log_model_kwargs={'code_paths': [...]}, or make it a dataset of the "
            "catalog and an input of the node"
        )
    if answer.kind == "KeyError":
        return "if that is a variable of this machine: the image does not set it, make it a parameter (params:...)"
    return "what it imports must be in the project's package or in a package that it names"


class _OtherThanInTraining(RecordingError):
    """What the clean process found, of which putting imports off might be the cause."""


def _compare(recorded: str | None, answer: Answer, tolerance: Tolerance) -> None:
    if recorded is None or answer.response is None:
        return
    fault = compare_texts(recorded, answer.response, tolerance).fault
    if fault is not None:
        raise _OtherThanInTraining(
            f"in a clean process the model predicts something else than in training for the same example: {fault}",
            hint="see that the inference pipeline uses no state, clock or chance of its own",
        )
