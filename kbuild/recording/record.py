"""record_model: log the inference pipeline of a training run to MLflow, whole and checked, or not at all.

The model is first saved in a temporary folder, asked for its example, and loaded in a clean process. Only then is
it logged, and what is logged are those same files.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kbuild.errors import KbuildError, RecordingError
from kbuild.managers.conda_variables import unset_variables
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.clean_check import RECORDED_PREDICTION, ask_in_clean_process
from kbuild.recording.example import Example, make_example
from kbuild.recording.input.data import find_data
from kbuild.recording.input.typed import find_typed_parameters
from kbuild.recording.judged import (
    CHECK_OFF,
    OtherThanInTraining,
    advise,
    compare_clean,
    compare_own,
    tell_columns,
    tell_open,
)
from kbuild.recording.log import log_checked_files
from kbuild.recording.mlflow_run import quiet_mlflow
from kbuild.recording.own import OwnRun
from kbuild.recording.provenance import note_inputs
from kbuild.recording.run.git import GitState
from kbuild.recording.saving import Draft, record_prediction, save_model
from kbuild.recording.shipment.closure import find_owners, pin
from kbuild.recording.shipment.extra import name_shippable, place_extra
from kbuild.recording.shipment.pinning import make_environment
from kbuild.recording.shipment.shipping import (
    Shipment,
    brings_kedro,
    find_blocked,
    find_distributions_of,
    plan_shipment,
    stage_code,
    tell_compiled,
    tell_kedro,
)
from kbuild.recording.shipment.tracing import find_model_modules
from kbuild.training.artifacts import Settled, settle_inputs
from kbuild.training.described import find_dataset
from kbuild.training.pipeline_ml import PipelineML
from kbuild.training.pyfunc import KedroPipelineModel
from kbuild.training.staleness import check_fresh, check_versions

_logger = logging.getLogger(__name__)
# How often a package may be added that only loading the model showed to be needed.
_MAX_ADDED_PACKAGES = 8
_UNCOMPARED = (
    "The input %r does not say what it holds, so what the model loads was not compared with what the catalog loads: "
    "only the answers to the example were."
)
_ANY_HINT = (
    "see that each input of the inference pipeline loads by itself (catalog.load) and that the pipeline runs on rows "
    "of its input: kedro run --pipelines <its name>"
)


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
    probes: tuple[Any, ...] = (),
) -> RecordedModel:
    """Log the model of a finished training run.

    Args:
        pipeline_ml: what ran, no more and no less; its inference pipeline is logged.
        catalog: the catalog of that run.
        run_id: the MLflow run to log to, at the tracking uri that MLflow is set to.
        package_name: the project's package, whose code travels with the model.
        settings: of the example, the check in a clean process, and what else travels.
        captured: data of in-memory datasets that the runner has released since.
        git: the project's commit, for the model's metadata.
        licence: the project's, an SPDX expression, for the same.
        probes: objects with hooks that see the pipeline's own answer being made, and change nothing of it.

    Raises RecordingError saying why the model could not be logged whole; nothing of it is left then.
    """
    settings = settings or TrainingSettings()
    pipeline_ml = pipeline_ml.by_default(signature=settings.signature)
    with _as_recording_error(), tempfile.TemporaryDirectory(prefix="kbuild-record-") as folder, quiet_mlflow():
        work = Path(folder)
        captured = {**(captured or {}), **find_typed_parameters(pipeline_ml.inference, catalog)}
        check_fresh(pipeline_ml.binding, pipeline_ml.nodes)
        check_versions(pipeline_ml.binding, pipeline_ml.nodes, lambda name: find_dataset(name, catalog))
        model = KedroPipelineModel(pipeline_ml=pipeline_ml, catalog=catalog)
        example, settled = _settle(model, pipeline_ml, catalog, captured, settings, work / "inputs", probes)
        for name, reason in settled.as_values.items():
            _logger.warning("The input %r goes into the model as its value, pickled: %s.", name, reason)
        for name in settled.uncompared:
            _logger.warning(_UNCOMPARED, name)
        draft = Draft(
            model=model,
            artifacts=settled.artifacts,
            example=example,
            package_name=package_name,
            log_model_kwargs=pipeline_ml.log_model_kwargs,
            git=git,
            licence=licence,
            reused=tuple(pipeline_ml.reused_names),
            tolerance=settings.tolerance,
        )
        saved = _save_provable(draft, find_model_modules(model), work, settings)
        made = pipeline_ml.binding.made_names - set(draft.reused)
        note_inputs(run_id, settled.artifacts, made=made, reused=draft.reused)
        name = pipeline_ml.log_model_kwargs["name"]
        source = package_name or name
        model_id = log_checked_files(saved.files, pipeline_ml.log_model_kwargs, run_id, source=source, git=git)
    return RecordedModel(
        run_id=run_id,
        model_id=model_id,
        model_uri=f"models:/{model_id}",
        name=name,
        reused=draft.reused,
        notes=saved.notes,
    )


@contextmanager
def _as_recording_error() -> Iterator[None]:
    try:
        yield
    except KbuildError:
        raise
    except (Exception, SystemExit) as error:  # values, datasets and nodes are of anybody's classes
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise RecordingError(f"the model could not be recorded: {text}{_place(error)}", hint=_ANY_HINT) from error


def _place(error: BaseException) -> str:
    """Where it was raised, as words to add: whose code it was is half of the cause."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" (in {frames[-1].name}, {Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _settle(
    model: KedroPipelineModel,
    pipeline_ml: PipelineML,
    catalog: Any,
    captured: Mapping[str, Any],
    settings: TrainingSettings,
    folder: Path,
    probes: tuple[Any, ...],
) -> tuple[Example, Settled]:
    """The example with the pipeline's own answer, and the model's inputs: each is loaded from the catalog once.

    The model has the inputs' values afterwards, as it will load them.
    """
    made: list[Example] = []

    def use(loaded: Mapping[str, Any]) -> None:
        data, has_data = find_data(pipeline_ml.input_names, catalog, captured)
        kpm = pipeline_ml.kpm_kwargs
        hooks, copy_mode = (*probes, *(kpm.get("hooks") or ())), kpm.get("copy_mode")
        own = OwnRun(pipeline_ml.inference, catalog, in_memory=captured, hooks=hooks, copy_mode=copy_mode)
        model._values, model._plan = dict(loaded), own  # type: ignore[assignment]
        kwargs, rows = pipeline_ml.log_model_kwargs, settings.example_rows
        try:
            example = make_example(model, data, has_data=has_data, log_model_kwargs=kwargs, rows=rows)
            made.append(replace(example, between=dict(own.changes)))
        finally:
            model.compile()

    settled = settle_inputs(model.sources, catalog, folder, captured, use)
    model.sources, model._values = settled.sources, dict(settled.values)
    settled.values.clear()
    return made[0], settled


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saved:
    """The files that are to be logged, and what the user is to know of how they were checked."""

    files: Path
    notes: tuple[str, ...] = ()


def _save_provable(draft: Draft, modules: set[str], work: Path, settings: TrainingSettings) -> _Saved:
    """Save and check the model, without Kedro where nothing served needs it and the clean process shows as much."""
    lean = plan_shipment(modules, draft.package_name, lean=draft.model.runner is None)
    if not lean.changed:
        told = (tell_kedro(lean, lean.kedro_for),) if lean.kedro_for else ()
        return _save_checked(draft, lean, work, settings, told)
    whole = plan_shipment(modules, draft.package_name)
    if not settings.check or draft.example.input_example is None:
        reason = "it has no input example" if settings.check else "[tool.kbuild.training] check is false"
        why = f"nothing shows that the model does without it: {reason}"
    else:
        try:
            return _save_checked(draft, lean, work / "lean", settings)
        except OtherThanInTraining as error:
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
    travelling = find_distributions_of(shipped, draft.package_name)
    requirements = list(shipment.requirements)
    for attempt in range(_MAX_ADDED_PACKAGES + 1):
        environment = make_environment(
            requirements, draft.log_model_kwargs, work / f"environment-{attempt}", travelling=travelling
        )
        saved = work / f"model-{attempt}"
        save_model(draft, environment, code_paths, saved)
        place_extra(settings.ship, draft.package_name, saved)
        if attempt == 0:
            twice = settings.check and draft.example.own is None
            asked = record_prediction(
                saved, draft.model.loaded_inputs, own=draft.example.own, watched=settings.check, twice=twice
            )
            compare_own(draft, asked, settings.tolerance)
            unset = unset_variables(environment.conda_env)
            told = (*told, *tell_compiled(shipment), *draft.example.notes, *tell_columns(draft, asked))
            told = (*told, *([unset] if unset else []))
            # The clean process loads them next: beside these there would be two of each.
            draft.model._values = None
        elif asked is not None:  # only requirements are others now
            (saved / RECORDED_PREDICTION).write_text(asked.response, encoding="utf-8")
        if not settings.check:
            return _Saved(files=saved, notes=told)
        answer = ask_in_clean_process(
            saved,
            blocked=find_blocked(environment.closure.versions, shipped),
            shipped=shipped,
            closure=environment.closure.versions,
            timeout=settings.check_timeout,
            base=settings.base,
        )
        if answer.error is None:
            compare_clean(asked, answer, settings.tolerance)
            return _Saved(files=saved, notes=(*told, *tell_open(answer, settings.base)))
        owners = find_owners().get(answer.missing or "", [])
        asks_for_kedro = bool(shipment.changed) and any(map(brings_kedro, owners))
        if environment.fixed or not owners or owners[0] in environment.closure.versions or asks_for_kedro:
            break
        requirements.append(pin(owners[0]))
        shutil.rmtree(saved)
    raise OtherThanInTraining(
        f"the model cannot be loaded and asked in a clean process: {answer.error}",
        hint=f"{advise(answer, name_shippable(answer.file, saved, draft.package_name))}; {CHECK_OFF}",
    )
