"""KedroPipelineModel: a Kedro inference pipeline as an MLflow pyfunc model.

``kbuild.training.pyfunc.KedroPipelineModel`` is written into every logged model: the path must never change.
What is pickled is a plain dict with a format number, see ``ServedPipeline.__getstate__``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from kbuild.errors import PipelineMLError
from kbuild.served.calls import CopyMode, make_steps
from kbuild.served.pipeline import ServedPipeline, adopt, check_runner

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline

    from kbuild.training.pipeline_ml import PipelineML


class KedroPipelineModel(ServedPipeline, PythonModel):  # type: ignore[misc]
    """The inference pipeline with a description of its inputs, ready for ``mlflow.pyfunc.log_model``.

    Args:
        pipeline_ml: a PipelineML; or else ``pipeline`` and ``input_name``, the inference pipeline and its input, which
            may stand first and third, as kedro-mlflow has it.
        catalog: the Kedro catalog that says how each input is stored.
        runner: None, or "SequentialRunner" (also Kedro's class or an instance) to let Kedro run the pipeline, which
            takes longer, needs Kedro where the model is served, and calls ``hooks``.
        copy_mode: "assign", "copy" or "deepcopy", for all datasets or as ``{dataset: mode}``; what nodes are given.
        hooks: objects whose dataset and node hooks Kedro's runner calls for each request; pickled into the model.

    Raises PipelineMLError when the arguments do not make a pipeline.
    """

    def __init__(
        self,
        pipeline_ml: PipelineML | Pipeline | None = None,
        catalog: CatalogProtocol | None = None,
        input_name: str | None = None,
        copy_mode: CopyMode | None = None,
        runner: Any = None,
        *,
        pipeline: Pipeline | PipelineML | None = None,
        hooks: Iterable[Any] | None = None,
    ) -> None:
        from kbuild.training.artifacts import describe_inputs

        # kedro-mlflow's first argument is the inference pipeline; what is bound brings it along.
        if pipeline_ml is not None and not hasattr(pipeline_ml, "inference"):
            pipeline_ml, pipeline = None, pipeline_ml if pipeline is None else pipeline
        if hasattr(pipeline, "inference"):
            pipeline_ml, pipeline = pipeline, None
        if pipeline_ml is not None:
            pipeline = pipeline_ml.inference if pipeline is None else pipeline
            input_name = pipeline_ml.input_name if input_name is None else input_name
            runner = pipeline_ml.kpm_kwargs.get("runner") if runner is None else runner
            copy_mode = pipeline_ml.kpm_kwargs.get("copy_mode") if copy_mode is None else copy_mode
            hooks = pipeline_ml.kpm_kwargs.get("hooks") if hooks is None else hooks
        if pipeline is None or input_name is None or catalog is None:
            raise PipelineMLError("KedroPipelineModel needs a catalog, and pipeline_ml or pipeline with input_name")
        if input_name not in pipeline.inputs():
            raise PipelineMLError(f"input_name {input_name!r} is not an input of the inference pipeline")
        self.runner = check_runner(runner, PipelineMLError)
        self._hooks = check_hooks(hooks, self.runner)
        self.input_name = input_name
        self.output_names = sorted(pipeline.outputs())
        self.copy_mode: CopyMode = "assign" if copy_mode is None else copy_mode
        self.sources = describe_inputs(pipeline.inputs() - {input_name}, catalog)
        self._catalog = catalog
        self._steps = make_steps(pipeline)
        self._nodes = () if self.runner is None else tuple(pipeline.nodes)
        self.compile()

    def extract_pipeline_artifacts(self, parameters_saving_folder: str | Path | None = None) -> dict[str, str]:
        """The files the model needs, for ``log_model(artifacts=…)``: ``{dataset name: uri}``.

        Persisted datasets are their own files. Parameters and in-memory inputs are staged, remote files are fetched,
        into ``parameters_saving_folder``, or a temporary folder that is there as long as this process.
        Raises RecordingError naming every input that has no data.
        """
        from kbuild.training.artifacts import extract_artifacts

        if self._catalog is None:
            raise PipelineMLError("a loaded model has no catalog to take artifacts from")
        return extract_artifacts(self.sources, self._catalog, parameters_saving_folder)

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artifacts that MLflow found; see ``load_artifacts``."""
        if not adopt(self, context.artifacts):
            self.load_artifacts(context.artifacts)

    # MLflow reads these hints: of all types, a table is the one it neither warns of nor checks. Other inputs may come.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """See ``ServedPipeline.predict``."""
        return super().predict(context, model_input, params)


def check_hooks(hooks: Iterable[Any] | None, runner: str | None) -> tuple[Any, ...]:
    """The hooks as they are kept; raises PipelineMLError for those that nobody would call."""
    given = tuple(hooks or ())
    if given and runner is None:
        raise PipelineMLError("hooks are called by Kedro's runner only", hint="add runner='SequentialRunner'")
    for each in given:
        if isinstance(each, type):
            raise PipelineMLError(f"hooks has the class {each.__name__}: give an object of it, {each.__name__}()")
    return given
