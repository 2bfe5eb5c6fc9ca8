"""What would fail a training after its last node, told before its first, or before the one that is given it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbuild.errors import ConfigurationError
from kbuild.hooks.saying import say
from kbuild.training.one_line import one_line_errors

if TYPE_CHECKING:
    from kbuild.hooks.under_way import Training
    from kbuild.project.config import ProjectConfig
    from kbuild.training.pipeline_ml import PipelineML

_logger = logging.getLogger(__name__)


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
    *,
    data: bool,
) -> None:
    """Raise all that is found at once, ``wrong`` among it; notes are told. Without ``data`` no file has to be there."""
    from kbuild.recording.preflight.fault import Fault, raise_findings
    from kbuild.recording.preflight.look import examine

    looked = examine(planned, catalog, config, project_path=project_path, package_name=package_name, data=data)
    raise_findings([*([] if wrong is None else [Fault(about="configuration", error=wrong)]), *looked.findings])
    for note in looked.notes:
        say(note)


def look_at_input(training: Training | None, name: str, value: Any) -> None:
    """Raise why no request could bring an input of inference, when a node of training is given it for the first time.

    What training makes is not there before its first node, and its last may be hours away.
    """
    if training is None or training.planned is None or name not in training.planned.input_names:
        return
    if name in training.looked_at:
        return
    training.looked_at.add(name)
    from kbuild.recording.input.early import check_value

    settings, several = training.config.training, len(training.planned.input_names) > 1
    kwargs = dict(training.planned.by_default(signature=settings.signature).log_model_kwargs)
    if several:
        kwargs.pop("input_example", None)  # of all of them
    try:
        error = check_value(name, value, kwargs, rows=settings.example_rows or 1, among=several)
    except Exception as fault:  # noqa: BLE001  a class of the user's may raise anything: recording tells
        _logger.info("The input %r cannot be looked at before the model is recorded: %s", name, type(fault).__name__)
        return
    if error is not None:
        with one_line_errors():
            raise error
