"""kbuild: the trained Kedro inference pipeline as an MLflow model and a reproducible image.

The names below are loaded on first use, so that ``import kbuild`` imports neither mlflow, kedro nor docker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kbuild._version import __version__ as __version__

if TYPE_CHECKING:
    from kbuild.api import *  # noqa: F403  for type checkers: the names that __getattr__ gives, listed once
    from kbuild.hooks.kedro_hook import MlflowPipelineHook
    from kbuild.training.pipeline_ml import PipelineML, pipeline_ml_factory
    from kbuild.training.pyfunc import KedroPipelineModel

__all__ = ["KedroPipelineModel", "MlflowPipelineHook", "PipelineML", "pipeline_ml_factory"]

_HOMES = dict.fromkeys(("PipelineML", "pipeline_ml_factory"), "kbuild.training.pipeline_ml")
_HOMES |= {"KedroPipelineModel": "kbuild.training.pyfunc", "MlflowPipelineHook": "kbuild.hooks.kedro_hook"}
# What builds, and does not travel in models.
_API = ["AuditOptions", "BuildOptions", "ImageOptions", "LockOptions", "MeasureOptions", "RebuildOptions", "RunOptions"]
_API += ["ScoreOptions", "VerifyOptions", "audit", "build_image", "build_images", "diff", "inspect", "lock", "measure"]
_API += ["open_session", "pack", "rebuild", "render", "run", "score", "spark_udf", "verify"]
_HOMES |= dict.fromkeys(_API, "kbuild.api")
__all__ += _API


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    try:
        module = import_module(home)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{home}.".startswith(f"{error.name}."):
            raise
        return _left_behind(name)
    return getattr(module, name)


def _left_behind(name: str) -> type:
    """In the place of what trains or builds, for files of a served project that import it and do not use it there."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ImportError(f"kbuild.{name} does not travel with models: it is of training or building", name="kbuild")

    return type(name, (), {"__module__": "kbuild", "__new__": refuse})


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
