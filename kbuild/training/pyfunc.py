"""KedroPipelineModel: a Kedro inference pipeline as an MLflow pyfunc model.

``kbuild.training.pyfunc.KedroPipelineModel`` is written into every logged model: the path must never change.
What is pickled is a plain dict with a format number, see ``__getstate__``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from kbuild.errors import InvalidModel, PipelineMLError, PredictionError
from kbuild.training.inputs import InputSource, load_input
from kbuild.training.plan import CopyMode, Plan, Step, is_parameter, make_steps

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline

    from kbuild.training.pipeline_ml import PipelineML

# Raised when a state is written that older code cannot read.
STATE_FORMAT = 1
# What the request parameter "runner" and the argument of that name may say; neither changes how the plan runs.
RUNNERS = (None, "SequentialRunner")


class KedroPipelineModel(PythonModel):  # type: ignore[misc]
    """The inference pipeline with a description of its inputs, ready for ``mlflow.pyfunc.log_model``.

    Args:
        pipeline_ml: a PipelineML; or else ``pipeline`` and ``input_name``, the inference pipeline and its input.
        catalog: the Kedro catalog that says how each input is stored.
        runner: None or "SequentialRunner" (also Kedro's class or an instance), accepted for kedro-mlflow's users.
        copy_mode: "assign", "copy" or "deepcopy", for all datasets or as ``{dataset: mode}``; what nodes are given.

    Raises PipelineMLError when the arguments do not make a pipeline.
    """

    def __init__(
        self,
        pipeline_ml: PipelineML | None = None,
        catalog: CatalogProtocol | None = None,
        *,
        pipeline: Pipeline | None = None,
        input_name: str | None = None,
        runner: Any = None,
        copy_mode: CopyMode | None = None,
    ) -> None:
        from kbuild.training.artifacts import describe_inputs

        if pipeline_ml is not None:
            pipeline = pipeline_ml.inference if pipeline is None else pipeline
            input_name = pipeline_ml.input_name if input_name is None else input_name
            runner = pipeline_ml.kpm_kwargs.get("runner") if runner is None else runner
            copy_mode = pipeline_ml.kpm_kwargs.get("copy_mode") if copy_mode is None else copy_mode
        if pipeline is None or input_name is None or catalog is None:
            raise PipelineMLError("KedroPipelineModel needs a catalog, and pipeline_ml or pipeline with input_name")
        if input_name not in pipeline.inputs():
            raise PipelineMLError(f"input_name {input_name!r} is no input of the inference pipeline")
        _check_runner(runner, PipelineMLError)
        self.input_name = input_name
        self.output_names = sorted(pipeline.outputs())
        self.copy_mode: CopyMode = "assign" if copy_mode is None else copy_mode
        self.sources = describe_inputs(pipeline.inputs() - {input_name}, catalog)
        self._catalog = catalog
        self._steps = make_steps(pipeline)
        self._compile()

    def _compile(self) -> None:
        self._values: dict[str, Any] | None = None
        self._plan = Plan(
            self._steps,
            inputs=[self.input_name, *self.sources],
            outputs=self.output_names,
            copy_mode=self.copy_mode,
        )

    def extract_pipeline_artifacts(self, parameters_saving_folder: str | Path | None = None) -> dict[str, str]:
        """The files the model needs, for ``log_model(artifacts=…)``: ``{dataset name: uri}``.

        Persisted datasets are their own files. Parameters and in-memory inputs are staged, remote files are fetched,
        into ``parameters_saving_folder``, or a new temporary folder, which is the caller's to delete.
        Raises RecordingError naming every input that has no data.
        """
        from kbuild.training.artifacts import extract_artifacts

        if self._catalog is None:
            raise PipelineMLError("a loaded model has no catalog to take artifacts from")
        return extract_artifacts(self.sources, self._catalog, parameters_saving_folder)

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artifacts that MLflow found; see ``load_artifacts``."""
        self.load_artifacts(context.artifacts)

    def load_artifacts(self, artifacts: Mapping[str, str]) -> None:
        """Load every input but the request's from paths or ``file:`` uris; raises InvalidModel when one is missing."""
        missing = sorted(set(self.sources) - set(artifacts))
        if missing:
            raise InvalidModel(f"the model lacks the artifact(s) {', '.join(missing)}")
        self._values = {name: load_input(name, source, artifacts[name]) for name, source in self.sources.items()}

    # MLflow reads these hints: of all types, a table is the one it neither warns of nor checks. Other inputs may come.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """The inference pipeline's output; with several outputs, ``{name: value}``, tables in it as lists of records.

        ``params`` are the request's own values for parameters of the inference pipeline, by name without ``params:``.
        Raises PredictionError for a parameter it does not have.
        """
        if self._values is None:
            raise PredictionError("the model was asked before load_context() loaded its artifacts")
        values = self._set_parameters(self._values, params or {})
        values[self.input_name] = model_input
        outputs = self._plan.run(values)
        if len(outputs) == 1:
            return outputs[self.output_names[0]]
        return {name: _to_records(value) for name, value in outputs.items()}

    def _set_parameters(self, loaded: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """The loaded inputs in a dict of this request's own; its parameters are copies that a node may change."""
        values = {name: copy.deepcopy(value) if is_parameter(name) else value for name, value in loaded.items()}
        for key, value in params.items():
            if key == "runner":
                _check_runner(value, PredictionError)
                continue
            name = key.removeprefix("params:")
            found = False
            if f"params:{name}" in values:
                values[f"params:{name}"] = value
                found = True
            if name in values.get("parameters", {}):
                values["parameters"][name] = value
                found = True
            if not found:
                known = ", ".join(self.parameter_names) or "none"
                raise PredictionError(f"the model has no parameter {key!r}; it has: {known}")
        return values

    @property
    def loaded_inputs(self) -> Mapping[str, Any]:
        """The loaded inputs by dataset name; empty before ``load_context``."""
        return self._values or {}

    @property
    def parameter_names(self) -> list[str]:
        """What ``params`` may name: the inference pipeline's ``params:`` inputs, without that prefix."""
        return sorted(name.removeprefix("params:") for name in self.sources if name.startswith("params:"))

    def __getstate__(self) -> dict[str, Any]:
        # A model that was loaded is copied, sent or put into another model whole; one that is being logged is not,
        # since its values become the model's artifacts.
        loaded = {} if self._catalog is not None or self._values is None else {"values": dict(self._values)}
        return loaded | {
            "format": STATE_FORMAT,
            "input_name": self.input_name,
            "output_names": list(self.output_names),
            "copy_mode": self.copy_mode if isinstance(self.copy_mode, str) else dict(self.copy_mode),
            "sources": {name: source.to_dict() for name, source in self.sources.items()},
            "steps": [
                {"name": step.name, "func": step.func, "inputs": step.inputs, "outputs": step.outputs}
                for step in self._steps
            ],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.get("format") != STATE_FORMAT:
            raise InvalidModel(
                f"the model is of format {state.get('format')!r}, this kbuild reads format {STATE_FORMAT}",
                hint="load it with the kbuild that it carries in its code folder",
            )
        self.input_name = state["input_name"]
        self.output_names = list(state["output_names"])
        self.copy_mode = state["copy_mode"]
        self.sources = {name: InputSource.from_dict(each) for name, each in state["sources"].items()}
        self._catalog = None
        self._steps = [Step(**step) for step in state["steps"]]
        self._compile()
        self._values = state.get("values")


def _check_runner(runner: Any, kind: type[PipelineMLError] | type[PredictionError]) -> None:
    name = runner
    if runner is not None and not isinstance(runner, str):
        name = runner.__name__ if isinstance(runner, type) else type(runner).__name__
    if name not in RUNNERS:
        raise kind(f"runner {name!r} is not allowed: the served pipeline runs in order, as 'SequentialRunner' does")


def _to_records(value: Any) -> Any:
    # MLflow's scoring server turns a table into JSON when it is the whole answer, not when it is a value in one.
    if isinstance(value, pd.DataFrame):
        return value.to_dict(orient="records")
    return value.tolist() if isinstance(value, pd.Series | pd.Index) else value
