"""The preflight of a project's registered pipelines, without training: for the CI of a pull request."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kbuild.errors import ConfigurationError, KbuildError, PipelineMLError
from kbuild.recording.preflight.fault import Fault, did_you_mean

if TYPE_CHECKING:
    from kbuild.training.pipeline_ml import PipelineML


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """``pipelines`` that were looked at; each finding and note once, with the pipeline that showed it first."""

    pipelines: tuple[str, ...]
    findings: tuple[tuple[str, Fault], ...]
    notes: tuple[str, ...]


def check_project(
    project_path: Path, *, env: str | None = None, names: Sequence[str] = (), data: bool = True, stores: bool = True
) -> Checked:
    """Look at these pipelines, or at all that log a model, as ``kedro run`` does before the first node.

    Raises PipelineMLError for names that are not registered, and where no pipeline logs a model.
    """
    from kedro.framework import project
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    from kbuild.project.config import ProjectConfig, read_config
    from kbuild.recording.preflight.look import examine
    from kbuild.training.plugins import BEFORE_LOADING, find_foreign

    bootstrap_project(project_path)
    try:
        registered = dict(project.pipelines)
    except PipelineMLError as error:
        hint = error.hint or _tell_line(error, project_path)
        refused = PipelineMLError(error.message, hint=hint)
        return Checked(pipelines=(), findings=(("", Fault(about="pipeline_registry", error=refused)),), notes=())
    except Exception as error:  # noqa: BLE001  it is the project's own code
        text = " ".join(str(error).split())
        raised = ConfigurationError(
            f"the pipelines cannot be registered: {type(error).__name__}: {text}", hint=_tell_line(error, project_path)
        )
        return Checked(pipelines=(), findings=(("", Fault(about="pipeline_registry", error=raised)),), notes=())
    notes: list[str] = []
    findings: dict[tuple[str, str], tuple[str, Fault]] = {
        ("pipeline", error.message): (name, Fault(about="pipeline", error=error))
        for name, error in _find_lost(registered, names)
    }
    chosen = _choose(registered, names, notes, others=bool(findings))
    with KedroSession.create(project_path=project_path, env=env) as session:
        context = session.load_context()
        data = data and not find_foreign(getattr(context, "_hook_manager", None), [BEFORE_LOADING])
        config = ProjectConfig(root=project_path, env=env)
        try:
            config = read_config(project_path, env=env, loader=context.config_loader)
        except ConfigurationError as error:
            findings["", ""] = ("", Fault(about="configuration", error=error))
        for pipeline, bound in chosen.items():
            looked = examine(
                bound,
                context.catalog,
                config,
                project_path=project_path,
                package_name=project.PACKAGE_NAME,
                data=data,
                stores=stores,
            )
            for each in looked.findings:
                findings.setdefault((each.about, each.error.message), (pipeline, each))
            notes += looked.notes
    return Checked(
        pipelines=tuple(chosen), findings=tuple(findings.values()), notes=tuple(dict.fromkeys(notes))
    )  # fmt: skip


def _tell_line(error: BaseException, project_path: Path) -> str:
    """Where in the project's own code that was raised: a registry makes many pipelines."""
    root = project_path.resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        place = Path(frame.filename).resolve()
        if place.is_relative_to(root) and "site-packages" not in place.parts:
            return f"see {place.relative_to(root)}, line {frame.lineno}"
    return "see that register_pipelines in pipeline_registry.py can be called"


def _find_lost(registered: dict[str, object], names: Sequence[str]) -> Iterator[tuple[str, PipelineMLError]]:
    """What ``kedro run`` says of pipelines that have training nodes and no longer the inference pipeline of these."""
    from kbuild.training.pipeline_ml import refuse_lost

    for name, pipeline in registered.items():
        if (not names or name in names) and (error := refuse_lost(pipeline)) is not None:
            yield name, error


def _choose(
    registered: dict[str, object], names: Sequence[str], notes: list[str], *, others: bool
) -> dict[str, PipelineML]:
    """``others`` where something is found of other pipelines."""
    from kbuild.training.pipeline_ml import PipelineML

    for name in names:
        if name not in registered:
            raise PipelineMLError(
                f"there is no pipeline {name!r}",
                hint=did_you_mean(name, registered, f"pipeline_registry.py registers: {', '.join(sorted(registered))}"),
            )
    chosen: dict[str, PipelineML] = {}
    for name, pipeline in registered.items():
        if (names and name not in names) or not isinstance(pipeline, PipelineML):
            continue
        try:
            binding = pipeline.binding
        except KbuildError as error:
            if names:
                raise
            notes.append(f"The pipeline {name!r} is not checked: {error.message}.")
            continue
        # A default pipeline that is the sum of the others shows nothing new.
        if names or not any(pipeline == other and binding is other.binding for other in chosen.values()):
            chosen[name] = pipeline
    if not chosen and not others:
        raise PipelineMLError(
            f"none of the pipelines {', '.join(names or sorted(registered))} logs a model",
            hint="bind training and inference with kbuild.pipeline_ml_factory in pipeline_registry.py",
        )
    return chosen
