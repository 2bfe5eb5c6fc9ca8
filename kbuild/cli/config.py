"""What commands take from the project they are started in: ``[tool.kbuild]`` of pyproject.toml and the MLflow store."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.errors import ConfigurationError

_KEYS = {"base": str, "template": str, "channels": list, "interpreter": str, "debian-mirror": str, "labels": dict}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectConfig:
    """``root`` is the nearest folder upwards with a Kedro project or a ``[tool.kbuild]``, else None.

    Options of the command line win over these.
    """

    root: Path | None = None
    base: str | None = None
    template: Path | None = None
    channels: tuple[str, ...] = ()
    interpreter: str = "auto"
    debian_mirror: str | None = None
    labels: tuple[tuple[str, str], ...] = ()


def read_project_config(start: Path) -> ProjectConfig:
    """Look from ``start`` upwards; raises ConfigurationError for keys or values that cannot be."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            tool = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
        if "kbuild" in tool or "kedro" in tool:
            return _parse(folder, file, tool.get("kbuild", {}))
    return ProjectConfig()


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


def _parse(root: Path, file: Path, table: dict[str, Any]) -> ProjectConfig:
    wrong = [
        f"{key} is unknown" if key not in _KEYS else f"{key} has to be a {_KEYS[key].__name__}"
        for key, value in table.items()
        if key not in _KEYS or not isinstance(value, _KEYS[key])
    ]
    if wrong:
        known = ", ".join(_KEYS)
        raise ConfigurationError(f"[tool.kbuild] in {file}: {'; '.join(wrong)}", hint=f"known keys are {known}")
    template = table.get("template")
    return ProjectConfig(
        root=root,
        base=table.get("base"),
        template=None if template is None else root / template,
        channels=tuple(map(str, table.get("channels", ()))),
        interpreter=table.get("interpreter", "auto"),
        debian_mirror=table.get("debian-mirror"),
        labels=tuple(sorted((str(key), str(value)) for key, value in table.get("labels", {}).items())),
    )
