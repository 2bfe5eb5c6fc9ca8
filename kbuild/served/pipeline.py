"""The inference pipeline as it is served: loaded from a model's files and asked, without importing MLflow.

``kbuild.training.pyfunc.KedroPipelineModel`` is this with MLflow's base class and what logging needs. A scoring server
that has no use for MLflow yet loads this alone; when MLflow loads the same model later, both share one state.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kbuild.errors import InvalidModel, PipelineMLError, PredictionError
from kbuild.served.as_pandas import to_pandas
from kbuild.served.calls import CopyMode, Plan, Step, is_parameter
from kbuild.served.forms import Form, restore
from kbuild.served.inputs import InputSource, load_input
from kbuild.served.parameters import set_everywhere

if TYPE_CHECKING:
    from kbuild.served.runner import KedroRun

# Raised when a state is written that older code cannot read.
STATE_FORMAT = 1
# The format of a state with a form: older code would ignore it, and hand on what MLflow made of the request.
_FORM_FORMAT = 2
# What the argument "runner" and the request parameter of that name may say; the latter changes nothing.
RUNNERS = (None, "SequentialRunner")
# What is written into every pickled model.
MODEL_CLASS = ("kbuild.training.pyfunc", "KedroPipelineModel")


class ServedPipeline:
    """An inference pipeline with the values of its inputs; may be asked in many threads at once."""

    input_name: str
    output_names: list[str]
    copy_mode: CopyMode
    sources: dict[str, InputSource]
    # Where Kedro's runner is to run the pipeline: its name, the nodes, and whose hooks it calls.
    runner: str | None = None
    # What the request's value was in training, where MLflow hands on something else.
    form: Form | None = None
    _nodes: tuple[Any, ...] = ()
    _hooks: tuple[Any, ...] = ()
    _catalog: Any
    _steps: list[Step]
    _plan: Plan | KedroRun
    _values: dict[str, Any] | None

    def compile(self) -> None:
        """Make the plan of the steps, or of the nodes for Kedro's runner; the inputs' values are to be loaded."""
        self._values = None
        self._plan = Plan(
            self._steps,
            inputs=[self.input_name, *self.sources],
            outputs=self.output_names,
            copy_mode=self.copy_mode,
        )
        if self.runner is not None:
            from kbuild.served.runner import KedroRun

            self._plan = KedroRun(self._nodes, self._hooks, outputs=self.output_names, copy_mode=self.copy_mode)

    def load_artifacts(self, artifacts: Mapping[str, str]) -> None:
        """Load every input but the request's from paths or ``file:`` uris; raises InvalidModel when one is missing."""
        missing, surplus = sorted(set(self.sources) - set(artifacts)), sorted(set(artifacts) - set(self.sources))
        if missing:
            raise InvalidModel(f"the model lacks the artifact(s) {', '.join(missing)}")
        if surplus:
            raise InvalidModel(f"the model has artifact(s) that no input reads: {', '.join(surplus)}")
        self._values = {name: load_input(name, source, artifacts[name]) for name, source in self.sources.items()}

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """The inference pipeline's output; with several outputs, ``{name: value}``, tables in it as lists of records.

        A table or column of polars or pyarrow is one of pandas, see ``to_pandas``.
        ``params`` are the request's own values for parameters of the inference pipeline, by name without ``params:``.
        Raises PredictionError for a parameter it does not have, and for a value that is not of the model's form.
        """
        value = model_input if self.form is None else restore(self.form, model_input)
        return self.ask(value, params)

    def ask(self, value: Any, params: Mapping[str, Any] | None = None) -> Any:
        """What ``predict`` gives, for the input's value as the pipeline's first node is to get it."""
        if self._values is None:
            raise PredictionError("the model was asked before load_context() loaded its artifacts")
        values = self._set_parameters(self._values, params or {})
        values[self.input_name] = value
        outputs = {name: to_pandas(value) for name, value in self._plan.run(values).items()}
        if len(outputs) == 1:
            return outputs[self.output_names[0]]
        return {name: _to_records(value) for name, value in outputs.items()}

    def _set_parameters(self, loaded: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """The loaded inputs in a dict of this request's own; its parameters are copies that a node may change."""
        values = {name: copy.deepcopy(value) if is_parameter(name) else value for name, value in loaded.items()}
        for key, value in params.items():
            if key == "runner":
                check_runner(value, PredictionError)
                continue
            if not set_everywhere(values, key.removeprefix("params:"), value):
                known = ", ".join(self.parameter_names) or "none"
                raise PredictionError(f"the model has no parameter {key!r}; it has: {known}")
        return values

    @property
    def loaded_inputs(self) -> Mapping[str, Any]:
        """The loaded inputs by dataset name; empty before their artifacts are loaded."""
        return self._values or {}

    @property
    def parameter_names(self) -> list[str]:
        """What ``params`` may name: the inference pipeline's ``params:`` inputs, without that prefix."""
        return sorted(name.removeprefix("params:") for name in self.sources if name.startswith("params:"))

    def __getstate__(self) -> dict[str, Any]:
        # A model that was loaded is copied, sent or put into another model whole; one that is being logged is not,
        # since its values become the model's artifacts.
        loaded = {} if self._catalog is not None or self._values is None else {"values": dict(self._values)}
        chosen = {"runner": self.runner, "nodes": self._nodes, "hooks": self._hooks} if self.runner else {}
        formed = {} if self.form is None else {"form": self.form}
        return (
            loaded
            | formed
            | {
                "format": _FORM_FORMAT if formed else STATE_FORMAT,
                "input_name": self.input_name,
                "output_names": list(self.output_names),
                "copy_mode": self.copy_mode if isinstance(self.copy_mode, str) else dict(self.copy_mode),
                "sources": {name: source.to_dict() for name, source in self.sources.items()},
                "steps": [
                    {"name": step.name, "func": step.func, "inputs": step.inputs, "outputs": step.outputs}
                    for step in self._steps
                ],
                **chosen,
            }
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.get("format") not in (STATE_FORMAT, _FORM_FORMAT):
            raise InvalidModel(
                f"the model is of format {state.get('format')!r}, this kbuild reads formats up to {_FORM_FORMAT}",
                hint="load it with the kbuild that it carries in its code folder",
            )
        self.input_name = state["input_name"]
        self.output_names = list(state["output_names"])
        self.copy_mode = state["copy_mode"]
        self.sources = {name: InputSource.from_dict(each) for name, each in state["sources"].items()}
        self.form = state.get("form")
        self._catalog = None
        self._steps = [Step(**step) for step in state["steps"]]
        self.runner = state.get("runner")
        self._nodes, self._hooks = state.get("nodes", ()), state.get("hooks", ())
        self.compile()
        self._values = state.get("values")


class _Unpickler(pickle.Unpickler):
    """Reads a KedroPipelineModel as what is served of it, so that MLflow's base class is not imported."""

    def find_class(self, module: str, name: str) -> Any:
        return ServedPipeline if (module, name) == MODEL_CLASS else super().find_class(module, name)


# What was loaded here by its artifacts' real paths, for ``adopt``.
_shared: dict[frozenset[tuple[str, str]], ServedPipeline] = {}


def load_served(file: Path, artifacts: Mapping[str, str]) -> ServedPipeline | None:
    """The pickled model in ``file`` with its artifacts loaded; None for another kind of model, or one that Kedro runs.

    Raises whatever the model's code raises. A model is code: whoever loads it trusts it.
    """
    with file.open("rb") as stream:
        # Class and module are the first things in the pickle of an object.
        head = stream.read(256)
        if not all(word.encode() in head for word in MODEL_CLASS):
            return None
        stream.seek(0)
        loaded = _Unpickler(stream).load()
    if type(loaded) is not ServedPipeline or loaded.runner is not None:
        return None
    loaded.load_artifacts(artifacts)
    _shared[_real(artifacts)] = loaded
    return loaded


def adopt(model: ServedPipeline, artifacts: Mapping[str, str]) -> bool:
    """Let ``model`` share the state of the one that ``load_served`` loaded from the same artifacts, if there is one.

    Nothing is then loaded twice, and whichever is asked, the same functions and values answer.
    """
    # Two models without any artifact are not told apart by them.
    twin = _shared.get(_real(artifacts)) if artifacts else None
    if twin is None:
        return False
    model.__dict__.update(twin.__dict__)
    return True


def _real(artifacts: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, os.path.realpath(path)) for name, path in artifacts.items())


def check_runner(runner: Any, kind: type[PipelineMLError] | type[PredictionError]) -> str | None:
    """The runner's name; raises an error of ``kind`` for one that is not allowed."""
    name = runner
    if runner is not None and not isinstance(runner, str):
        name = runner.__name__ if isinstance(runner, type) else type(runner).__name__
    if name not in RUNNERS:
        raise kind(f"runner {name!r} is not allowed: the served pipeline runs in order, as 'SequentialRunner' does")
    return None if name is None else str(name)


def _to_records(value: Any) -> Any:
    # MLflow's scoring server turns a table into JSON when it is the whole answer, not when it is a value in one.
    if isinstance(value, pd.DataFrame):
        if not value.columns.is_unique:  # pandas would leave the others out
            twice = ", ".join(map(repr, value.columns[value.columns.duplicated()].unique()))
            raise PredictionError(f"a table of the answer has several columns named {twice}, and JSON holds one")
        return value.to_dict(orient="records")
    return value.tolist() if isinstance(value, pd.Series | pd.Index) else value
