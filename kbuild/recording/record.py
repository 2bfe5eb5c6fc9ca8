"""record_model: log the inference pipeline of a training run to MLflow, whole and checked, or not at all.

The model is first saved in a temporary folder, asked for its example, and loaded in a clean process. Only then is
it logged, and what is logged are those same files.
"""

from __future__ import annotations

import logging
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild._version import __version__
from kbuild.answers import compare_texts
from kbuild.errors import RecordingError
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.artifacts import extract_artifacts, find_dataset
from kbuild.recording.changes import check_changes
from kbuild.recording.clean_check import (
    RECORDED_PREDICTION,
    SERVING_REQUEST,
    Answer,
    ask_in_clean_process,
)
from kbuild.recording.closure import find_owners, pin
from kbuild.recording.example import Example, make_example
from kbuild.recording.log import log_checked_files
from kbuild.recording.mlflow_run import GitState, quiet_mlflow
from kbuild.recording.pinning import ModelEnvironment, make_environment
from kbuild.recording.shipping import Shipment, find_blocked, plan_shipment, stage_code
from kbuild.recording.tracing import find_pickled_modules
from kbuild.training.pipeline_ml import PipelineML
from kbuild.training.pyfunc import KedroPipelineModel

# The key of kbuild's own record in the MLmodel file's metadata, and the version of its layout.
METADATA_KEY = "kbuild"
RECORD_FORMAT = 1
# How often a package may be added that only loading the model showed to be needed.
_MAX_ADDED_PACKAGES = 8
_SAVE_KWARGS = ("auth_policy", "model_config", "resources", "streamable")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedModel:
    """A model that was logged: ``model_uri`` is ``models:/<model id>``; ``reused`` inputs are of an earlier run."""

    run_id: str
    model_id: str
    model_uri: str
    name: str
    reused: tuple[str, ...]


def record_model(
    pipeline_ml: PipelineML,
    catalog: Any,
    *,
    run_id: str,
    package_name: str | None = None,
    settings: TrainingSettings | None = None,
    captured: Mapping[str, Any] | None = None,
    git: GitState | None = None,
) -> RecordedModel:
    """Log the model of a finished training run.

    Args:
        pipeline_ml: what ran; its inference pipeline is logged.
        catalog: the catalog of that run.
        run_id: the MLflow run to log to, at the tracking uri that MLflow is set to.
        package_name: the project's package, whose code travels with the model.
        settings: rows of the example, and whether to check in a clean process.
        captured: data of in-memory datasets that the runner has released since.
        git: the project's commit, for the model's metadata.

    Raises RecordingError saying why the model could not be logged whole; nothing of it is left then.
    """
    settings = settings or TrainingSettings()
    captured = captured or {}
    with tempfile.TemporaryDirectory(prefix="kbuild-record-") as folder, quiet_mlflow():
        work = Path(folder)
        model = KedroPipelineModel(pipeline_ml=pipeline_ml, catalog=catalog)
        artifacts = extract_artifacts(model.sources, catalog, work / "inputs", captured)
        model.load_artifacts(artifacts)
        data, has_data = _find_data(model.input_name, catalog, captured)
        example = make_example(
            model, data, has_data=has_data, log_model_kwargs=pipeline_ml.log_model_kwargs, rows=settings.example_rows
        )
        if settings.check:
            check_changes(model, artifacts, example.input_example)
        shipment = plan_shipment(_find_modules(model), package_name)
        draft = _Draft(
            model=model,
            artifacts=artifacts,
            example=example,
            shipment=shipment,
            log_model_kwargs=pipeline_ml.log_model_kwargs,
            git=git,
            reused=tuple(pipeline_ml.reused_names),
        )
        saved = _save_checked(draft, work, settings)
        model_id = log_checked_files(saved, pipeline_ml.log_model_kwargs, run_id)
    return RecordedModel(
        run_id=run_id,
        model_id=model_id,
        model_uri=f"models:/{model_id}",
        name=pipeline_ml.log_model_kwargs["name"],
        reused=draft.reused,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    model: KedroPipelineModel
    artifacts: dict[str, str]
    example: Example
    shipment: Shipment
    log_model_kwargs: dict[str, Any]
    git: GitState | None
    reused: tuple[str, ...]


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
        modules |= find_pickled_modules(value) | model.sources[name].modules
    return modules


def _save_checked(draft: _Draft, work: Path, settings: TrainingSettings) -> Path:
    """Save the model, record its prediction, check it; a package that turns out to be missing is added."""
    code_paths = [*stage_code(draft.shipment.code, work / "code"), *draft.log_model_kwargs.get("code_paths", [])]
    shipped = [Path(path).stem for path in code_paths]
    requirements = list(draft.shipment.requirements)
    for attempt in range(_MAX_ADDED_PACKAGES + 1):
        environment = make_environment(requirements, draft.log_model_kwargs, work / f"environment-{attempt}")
        saved = work / f"model-{attempt}"
        _save(draft, environment, code_paths, saved)
        recorded = _record_prediction(saved)
        if not settings.check:
            return saved
        answer = ask_in_clean_process(
            saved,
            blocked=find_blocked(environment.closure.versions, shipped),
            shipped=shipped,
            timeout=settings.check_timeout,
        )
        if answer.error is None:
            _compare(recorded, answer)
            return saved
        owners = find_owners().get(answer.missing or "", [])
        chosen = any(draft.log_model_kwargs.get(name) for name in ("conda_env", "pip_requirements"))
        if chosen or not owners or owners[0] in environment.closure.versions:
            break
        requirements.append(pin(owners[0]))
        shutil.rmtree(saved)
    raise RecordingError(
        f"the model cannot be loaded and asked in a clean process: {answer.error}",
        hint="what it imports must be in the project's package or in a package that it names; "
        "[tool.kbuild.training] check = false in pyproject.toml turns the check off",
    )


def _save(draft: _Draft, environment: ModelEnvironment, code_paths: list[str], target: Path) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    kwargs = {name: draft.log_model_kwargs[name] for name in _SAVE_KWARGS if name in draft.log_model_kwargs}
    # MLflow advises against pickled models at each save; the clean process has the last word on this one.
    logger = logging.getLogger("mlflow.pyfunc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    metadata = {**(draft.log_model_kwargs.get("metadata") or {}), METADATA_KEY: _make_metadata(draft)}
    try:
        mlflow.pyfunc.save_model(
            path=str(target),
            python_model=draft.model,
            artifacts=draft.artifacts,
            signature=draft.example.signature,
            input_example=draft.example.input_example,
            conda_env=environment.conda_env,
            code_paths=code_paths,
            metadata=metadata,
            **kwargs,
        )
    except MlflowException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise RecordingError(f"MLflow cannot save the model: {error.message}{cause}") from error
    finally:
        logger.setLevel(level)
    for compiled in sorted(target.rglob("__pycache__")):
        shutil.rmtree(compiled)
    # MLflow notes where each artifact came from: a path of this machine, of no use to anybody else.
    saved = Model.load(str(target))
    for artifact in saved.flavors["python_function"].get("artifacts", {}).values():
        artifact["uri"] = artifact["path"]
    saved.save(str(target / "MLmodel"))


def _make_metadata(draft: _Draft) -> dict[str, Any]:
    has_example = draft.example.input_example is not None
    record: dict[str, Any] = {
        "format": RECORD_FORMAT,
        "version": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()}-{platform.machine()}".lower(),
        "prediction": RECORDED_PREDICTION if has_example else None,
    }
    if draft.reused:
        record["reused_inputs"] = list(draft.reused)
    if draft.git is not None:
        record |= {"git_commit": draft.git.commit, "git_dirty": draft.git.dirty}
    return record


def _record_prediction(saved: Path) -> str | None:
    """Ask the saved model as the scoring server would, and keep the response beside the request, byte for byte."""
    request = saved / SERVING_REQUEST
    if not request.is_file():
        return None
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    # Loading puts the model's code folder first on the path, which is to be gone soon.
    path = sys.path
    try:
        model = mlflow.pyfunc.load_model(str(saved))
        schema = model.metadata.get_input_schema()
        text = request.read_text(encoding="utf-8")
        answer = scoring_server.invocations(text, "application/json", model, schema)
    except Exception as error:  # the nodes are the user's code, which may raise anything
        cause = _find_cause(error)
        raise RecordingError(f"the model cannot answer its own input example: {cause}") from error
    finally:
        sys.path = path
    if answer.status != 200:
        raise RecordingError(f"the model cannot answer its own input example: {answer.response}")
    (saved / RECORDED_PREDICTION).write_text(answer.response, encoding="utf-8")
    return str(answer.response)


def _find_cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return f"{type(error).__name__}: {error}"


def _compare(recorded: str | None, answer: Answer) -> None:
    if recorded is None or answer.response is None:
        return
    fault = compare_texts(recorded, answer.response).fault
    if fault is not None:
        raise RecordingError(
            f"in a clean process the model predicts something else than in training for the same example: {fault}",
            hint="see that the inference pipeline uses no state, clock or chance of its own",
        )
