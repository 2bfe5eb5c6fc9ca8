"""What would fail a training after its last node, told before its first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbuild.errors import ConfigurationError
from kbuild.hooks.saying import say

if TYPE_CHECKING:
    from kbuild.project.config import ProjectConfig
    from kbuild.training.pipeline_ml import PipelineML


def try_config(project_path: Path, env: str | None, loader: Any) -> tuple[ProjectConfig, ConfigurationError | None]:
    """The project's configuration; the defaults, and what is wrong, where it cannot be read."""
    from kbuild.project.config import ProjectConfig, read_config

    try:
        return read_config(project_path, env=env, loader=loader), None
    except ConfigurationError as error:
        return ProjectConfig(root=project_path, env=env), error


def look_ahead(
    planned: PipelineML,
    catalog: Any,
    config: ProjectConfig,
    project_path: Path,
    package_name: str | None,
    wrong: ConfigurationError | None,
) -> None:
    """Raise all that is found at once, ``wrong`` among it; notes are told."""
    from kbuild.recording.preflight.fault import Fault, raise_findings
    from kbuild.recording.preflight.look import examine

    looked = examine(planned, catalog, config, project_path=project_path, package_name=package_name)
    raise_findings([*([] if wrong is None else [Fault(about="configuration", error=wrong)]), *looked.findings])
    for note in looked.notes:
        say(note)
