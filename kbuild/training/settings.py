"""Where MLflow keeps things by default, and what a project may set for the logging of its models."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kbuild.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """``[tool.kbuild.training]`` of the project's pyproject.toml.

    example_rows: rows of the training input kept as input example; 0 keeps none.
    check: load the model and predict the example in a clean process before the run counts as logged.
    check_timeout: seconds that this check may take.
    """

    example_rows: int = 5
    check: bool = True
    check_timeout: float = 300.0


def read_settings(project_path: Path) -> TrainingSettings:
    """The project's settings, defaults where it says nothing; raises ConfigurationError for what it cannot mean."""
    path = project_path / "pyproject.toml"
    if not path.is_file():
        return TrainingSettings()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error}") from error
    table = document.get("tool", {}).get("kbuild", {}).get("training", {})
    known = {field.name: field.default for field in fields(TrainingSettings)}
    problems = [
        f"{name!r} is unknown (known: {', '.join(known)})" if name not in known else f"{name!r} cannot be {value!r}"
        for name, value in table.items()
        if name not in known or not _fits(value, known[name])
    ]
    if problems:
        raise ConfigurationError(f"{path.name}, [tool.kbuild.training]: {'; '.join(problems)}")
    return TrainingSettings(**table)


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | type(default)):
        return False
    return bool(value >= 0)


def default_tracking_uri(project_path: Path) -> str:
    """MLflow's store of a project that names none: ``sqlite:///<absolute project path>/mlflow.db``."""
    return f"sqlite:///{project_path.resolve().as_posix()}/mlflow.db"


def default_artifact_uri(project_path: Path) -> str:
    """Where the experiments in that store keep artifacts: ``file:///<absolute project path>/mlartifacts``."""
    return (project_path.resolve() / "mlartifacts").as_uri()
