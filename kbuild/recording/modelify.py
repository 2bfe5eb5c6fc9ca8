"""Log registered pipelines as a model without training, from what the catalog holds now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbuild.errors import PipelineMLError, RecordingError
from kbuild.recording.preflight.fault import did_you_mean

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

    from kbuild.project.tracking_settings import TrackingSettings
    from kbuild.recording.record import RecordedModel
    from kbuild.training.pipeline_ml import PipelineML

_NO_INPUT_HINT = "give it data, or pass --no-infer-signature to log the model without a signature and an example"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelifyRequest:
    """What to log: names of registered pipelines, and arguments that win over those of a registered PipelineML.

    Without ``training``, all inputs of the inference pipeline but ``input_name`` have to be in the catalog.
    """

    inference: str
    input_name: str
    training: str | None = None
    kpm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    log_model_kwargs: Mapping[str, Any] = field(default_factory=dict)


def modelify(request: ModelifyRequest, project_path: Path, env: str | None = None) -> RecordedModel:
    """Log the model of a Kedro project's pipelines to the active MLflow run, or to one of its own.

    Raises PipelineMLError for pipelines that are not registered or do not fit, RecordingError when the catalog lacks
    what the model needs, TrackingUnavailable when MLflow does not answer; see ``record_model`` for the model itself.
    """
    from kedro.framework import project
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    from kbuild.project.config import read_config
    from kbuild.recording.mlflow_run import make_tags, read_licence
    from kbuild.recording.record import record_model
    from kbuild.recording.run.git import read_git_state

    bootstrap_project(project_path)
    with KedroSession.create(project_path=project_path, env=env) as session:
        pipeline_ml = make_pipeline_ml(request, project.pipelines)
        context = session.load_context()
        catalog = context.catalog
        _check_input(request, pipeline_ml, catalog)
        config = read_config(project_path, env=env, loader=context.config_loader)
        settings = config.training
        git = read_git_state(project_path)
        asked = {"env": env, "pipeline_name": request.inference}
        name = project.PACKAGE_NAME or project_path.name
        tags = {**settings.tags, **make_tags(asked, git, name, config.tracking)}
        with _run(project_path, name, tags, config.tracking) as run_id:
            return record_model(
                pipeline_ml,
                catalog,
                run_id=run_id,
                package_name=project.PACKAGE_NAME,
                settings=settings,
                git=git,
                licence=read_licence(project_path),
            )


def make_pipeline_ml(request: ModelifyRequest, registered: Mapping[str, Pipeline]) -> PipelineML:
    """The two pipelines bound to each other; arguments of a registered PipelineML that binds the same two are kept."""
    from kbuild.training.pipeline_ml import PipelineML

    inference = _find(request.inference, registered)
    if isinstance(inference, PipelineML):
        raise PipelineMLError(
            f"pipeline {request.inference!r} is a training pipeline; its model is logged when it runs",
            hint="name the inference pipeline with --pipeline, and this one with --training",
        )
    # An inference pipeline alone stands for its own training: what it reads is there, and nothing is made.
    training = inference if request.training is None else _find(request.training, registered)
    kpm_kwargs: dict[str, Any] = {}
    log_model_kwargs: dict[str, Any] = {}
    if isinstance(training, PipelineML):
        if set(training.inference.nodes) == set(inference.nodes) and training.input_name == request.input_name:
            kpm_kwargs, log_model_kwargs = training.kpm_kwargs, training.log_model_kwargs
        training = training.training
    return PipelineML(  # the factory takes no pipeline that is bound to itself
        training,
        inference=inference,
        input_name=request.input_name,
        kpm_kwargs={**kpm_kwargs, **request.kpm_kwargs},
        log_model_kwargs={**log_model_kwargs, **request.log_model_kwargs},
    )


def _find(name: str, registered: Mapping[str, Pipeline]) -> Pipeline:
    if name not in registered:
        known = ", ".join(sorted(registered)) or "none"
        raise PipelineMLError(
            f"there is no pipeline {name!r}",
            hint=did_you_mean(name, registered, f"pipeline_registry.py registers: {known}"),
        )
    return registered[name]


def _check_input(request: ModelifyRequest, pipeline_ml: PipelineML, catalog: Any) -> None:
    """Refuse early what record_model could only answer with an advice for pipeline_registry.py."""
    from kbuild.training.described import find_dataset

    kwargs = pipeline_ml.log_model_kwargs
    if kwargs.get("signature", "auto") != "auto" or kwargs.get("input_example", "auto") not in ("auto", False):
        return
    dataset = find_dataset(request.input_name, catalog)
    if dataset is None or not dataset.exists():
        what = "is not in the catalog" if dataset is None else "has no data yet"
        raise RecordingError(
            f"the input {request.input_name!r} {what}, so the model's signature cannot be inferred from it",
            hint=_NO_INPUT_HINT,
        )


@contextlib.contextmanager
def _run(project_path: Path, name: str, tags: Mapping[str, str], settings: TrackingSettings) -> Iterator[str]:
    from kbuild.recording.mlflow_run import end_training_run, start_training_run

    run = start_training_run(project_path, name, tags, settings)
    try:
        yield run.run_id
    except BaseException:
        end_training_run(run, "FAILED")
        raise
    end_training_run(run, "FINISHED")
