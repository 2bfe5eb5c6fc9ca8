"""Where MLflow keeps things by default, and what a project may set for the logging of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kbuild.answers import DEFAULT, Tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """``training`` of a project's configuration (see config.py).

    example_rows: rows of the training input kept as input example; 0 keeps none.
    check: load the model and predict the example in a clean process before the run counts as logged.
    check_timeout: seconds that this check may take.
    tags: put on the MLflow run.
    signature: "used" narrows signatures to the columns that are read, where log_model_kwargs says nothing of them.
    ship: files and folders outside the package that models are to have.
    tolerance: how far floats of two answers may be apart and still be the same; it travels with the model.
    base: what the project says that its images start from, None where kbuild chooses.
    """

    example_rows: int = 5
    check: bool = True
    check_timeout: float = 300.0
    tags: Mapping[str, str] = field(default_factory=dict)
    signature: Literal["auto", "used"] = "auto"
    ship: tuple[Path, ...] = ()
    tolerance: Tolerance = DEFAULT
    base: str | None = None


def default_tracking_uri(project_path: Path) -> str:
    """MLflow's store of a project that names none: ``sqlite:///<absolute project path>/mlflow.db``."""
    return f"sqlite:///{project_path.resolve().as_posix()}/mlflow.db"


def default_artifact_uri(project_path: Path) -> str:
    """Where the experiments in that store keep artifacts: ``file:///<absolute project path>/mlartifacts``."""
    return (project_path.resolve() / "mlartifacts").as_uri()
