"""What is known of a training run while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbuild.hooks.terminated import EndWatch
    from kbuild.project.config import ProjectConfig
    from kbuild.recording.mlflow_run import TrainingRun
    from kbuild.recording.run.git import GitState
    from kbuild.recording.run.parameters import Parameters
    from kbuild.training.pipeline_ml import PipelineML


@dataclass(kw_only=True, slots=True)
class Training:
    """``captured`` is data of inference inputs that the runner would release. ``ran`` are nodes that were seen to run,
    ``given`` the datasets of which other hooks gave a node another value, ``changed`` those that they changed, and
    ``watched`` those of which that was looked at. ``looked_at`` are inputs of a request that a node was given.
    ``versions`` tells those of datasets so far."""

    run: TrainingRun
    tracking_uri: str
    config: ProjectConfig
    git: GitState | None
    wanted: frozenset[str]
    planned: PipelineML | None
    detach: Callable[[], None]
    versions: Callable[[], dict[str, str]]
    guard: EndWatch
    parameters: Parameters | None = None
    captured: dict[str, Any] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    watched: set[str] = field(default_factory=set)
    looked_at: set[str] = field(default_factory=set)


def keep(training: Training | None) -> str | None:
    """Write what there is of a run that fails; returns None, or why not, which must not hide the failure."""
    if training is None:
        return None
    from kbuild.recording.run.facts import keep_facts

    return keep_facts(training.run.run_id, training.config.tracking, training.parameters, training.versions)
