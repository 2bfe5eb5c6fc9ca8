"""kbuild next to kedro-mlflow in one project: one model is logged, by the one whose ``pipeline_ml_factory`` made it.

Which factory a project imports is its author's choice, so it decides, and one line says who logs:

- ``kedro_mlflow.pipeline.pipeline_ml_factory``: kedro-mlflow logs the model as it always did. kbuild leaves the run
  alone; its datasets and ``kbuild image`` take that model as any other.
- ``kbuild.pipeline_ml_factory``: kedro-mlflow starts and ends the run by its mlflow.yml, kbuild logs the model to that
  run. kedro-mlflow sees a pipeline that it does not know as one with a model, and logs parameters and metrics only.
  kbuild then leaves out what the run has from it: parameters and Kedro's arguments. A pipeline that its mlflow.yml
  names under ``disable_tracking`` is not tracked by either.

What would mix the two, kbuild's training pipeline given to kedro-mlflow's factory, loses its inference pipeline on the
way, and kbuild's hook refuses that run. Nothing of kedro-mlflow is imported here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kbuild.project.tracking_settings import TrackingSettings

_PACKAGE = "kedro_mlflow"


def is_theirs(pipeline: Any) -> bool:
    """Whether a pipeline is kedro-mlflow's PipelineML, or of a class made from it."""
    kinds = type(pipeline).__mro__
    return any(kind.__name__ == "PipelineML" and kind.__module__.partition(".")[0] == _PACKAGE for kind in kinds)


def find_settings(context: Any) -> Any:
    """What kedro-mlflow's hook leaves with Kedro's context where it takes part in the run, else None."""
    found = getattr(context, "mlflow", None)
    return found if type(found).__module__.partition(".")[0] == _PACKAGE else None


def leave_out(settings: TrackingSettings, theirs: Any) -> TrackingSettings:
    """What is left for kbuild to write where kedro-mlflow writes to the same run."""
    return settings if theirs is None else replace(settings, log_parameters=False, log_arguments=False)


def get_disabled(theirs: Any) -> tuple[str, ...]:
    """The pipelines of ``disable_tracking`` in mlflow.yml."""
    return () if theirs is None else tuple(map(str, theirs.tracking.disable_tracking.pipelines))


THEY_LOG = (
    "kedro-mlflow logs the model of this run, since its pipeline_ml_factory made the pipeline; "
    "import pipeline_ml_factory from kbuild to have kbuild log it instead"
)
WE_LOG = "; kedro-mlflow is here too, and logs no model"
