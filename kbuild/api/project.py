"""The project that work is done for: its configuration and the MLflow store."""

from __future__ import annotations

import os
from pathlib import Path

from kbuild.project.config import ProjectConfig as ProjectConfig
from kbuild.project.config import find_project as find_project
from kbuild.project.config import read_config, read_pyproject


def read_project_config(start: Path, env: str | None = None) -> ProjectConfig:
    """Of the nearest folder upwards from ``start`` with a Kedro project or a ``[tool.kbuild]``.

    ``env`` is a Kedro environment, conf/local by default. Raises ConfigurationError for keys or values that cannot be.
    """
    root = find_project(start)
    if root is None:
        return ProjectConfig(env=env)
    config = read_config(root, env=env)
    try:
        from kbuild.audit.policy import join_policies
    except ModuleNotFoundError:
        return config  # nothing audits without the build tools
    # Told by every command: a job gets to its audit only after it has built.
    join_policies(config.audit)
    return config


def project_name(config: ProjectConfig) -> str | None:
    """What training names its runs' source: the package's name, else the folder's; None outside of a project."""
    if config.root is None:
        return None
    package = read_pyproject(config.root).get("kedro", {}).get("package_name")
    return package if isinstance(package, str) else config.root.name


def tracking_uri(config: ProjectConfig, start: Path) -> str:
    """MLflow's own variable, else the store the project's training hook writes to, else MLflow's default."""
    stated = os.environ.get("MLFLOW_TRACKING_URI")
    if stated:
        return stated
    for folder in (config.root, start):
        if folder is not None and (folder / "mlflow.db").is_file():
            return f"sqlite:///{folder / 'mlflow.db'}"
    for folder in (config.root, start):
        if folder is not None and (folder / "mlruns").is_dir():
            return str(folder / "mlruns")
    return f"sqlite:///{(config.root or start) / 'mlflow.db'}"
