"""What ties an inference pipeline to its training pipeline, and the checks that it fits."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kbuild.errors import PipelineMLError
from kbuild.served.calls import is_parameter, make_steps

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

DEFAULT_MODEL_NAME = "model"
_APART = "take_request_apart"
KPM_KWARGS = ("copy_mode", "hooks", "runner")
# What a user may decide of mlflow.pyfunc.log_model; python_model and artifacts come from the run itself.
LOG_MODEL_KWARGS = (
    "artifact_path",
    "auth_policy",
    "await_registration_for",
    "code_paths",
    "conda_env",
    "extra_pip_requirements",
    "input_example",
    "metadata",
    "model_config",
    "model_type",
    "name",
    "params",
    "pip_requirements",
    "prompts",
    "registered_model_name",
    "resources",
    "signature",
    "step",
    "streamable",
    "tags",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """One inference pipeline, and the whole training it belongs to, of which a run may run a part.

    ``made_names`` are the inputs of inference that training makes; ``input_names`` the datasets that a request brings:
    of several, a node takes the one ``input_name`` apart, a dict of them.
    """

    training: Pipeline
    made_names: frozenset[str]
    inference: Pipeline
    input_name: str
    kpm_kwargs: dict[str, Any]
    log_model_kwargs: dict[str, Any]
    input_names: tuple[str, ...]

    @property
    def training_names(self) -> frozenset[str]:
        """The names of all training nodes."""
        return frozenset(node.name for node in self.training.nodes)

    def serves_like(self, other: Binding) -> bool:
        """Whether both log the same model, from whichever training nodes."""
        return (
            self.input_name == other.input_name
            and set(self.inference.nodes) == set(other.inference.nodes)
            and _same(self.kpm_kwargs, other.kpm_kwargs)
            and _same(self.log_model_kwargs, other.log_model_kwargs)
        )


def make_binding(
    training: Pipeline,
    inference: Pipeline,
    input_name: str | Sequence[str],
    kpm_kwargs: Mapping[str, Any] | None,
    log_model_kwargs: Mapping[str, Any] | None,
) -> Binding:
    """Check that the two pipelines fit; raises one PipelineMLError that names everything that does not."""
    names = (input_name,) if isinstance(input_name, str) else tuple(input_name)
    problems = [
        *_find_pipeline_problems(training, inference, names),
        *_find_unknown("kpm_kwargs", kpm_kwargs or {}, KPM_KWARGS),
        *_find_unknown("log_model_kwargs", log_model_kwargs or {}, LOG_MODEL_KWARGS),
    ]
    log_model = dict(log_model_kwargs or {})
    if "name" in log_model and "artifact_path" in log_model:
        problems.append("log_model_kwargs has both 'name' and 'artifact_path'; keep 'name'")
    if problems:
        raise PipelineMLError("the training and inference pipelines do not fit: " + "; ".join(problems))
    if "artifact_path" in log_model:
        warnings.warn("log_model_kwargs: 'artifact_path' is taken as 'name', write 'name' instead", stacklevel=4)
        log_model["name"] = log_model.pop("artifact_path")
    log_model.setdefault("name", DEFAULT_MODEL_NAME)
    inference, input_name = _join(inference, names)
    return Binding(
        training=training,
        made_names=frozenset(
            name for name in inference.inputs() - {input_name} if _strip(name) in map(_strip, training.all_outputs())
        ),
        inference=inference,
        input_name=input_name,
        kpm_kwargs=dict(kpm_kwargs or {}),
        log_model_kwargs=log_model,
        input_names=names,
    )


def _join(inference: Pipeline, names: tuple[str, ...]) -> tuple[Pipeline, str]:
    """The inference pipeline with one input: several come as a dict, which a node of its own takes apart."""
    if len(names) == 1:
        return inference, names[0]
    from kedro.pipeline import node

    # What follows an @ would be a transcoding to Kedro, and the node's input its own output.
    joined = "+".join(names).replace("@", ":")
    # A function of Python's own: what is served of it is a name to import.
    apart = node(copy.copy, joined, {name: name for name in names}, name=_APART)
    return inference + type(inference)([apart]), joined


def merge_bindings(mine: tuple[Binding, ...], theirs: tuple[Binding, ...]) -> tuple[Binding, ...]:
    """Both, those that serve alike joined into one that knows the training nodes of both."""
    merged = list(mine)
    for each in theirs:
        for position, known in enumerate(merged):
            if known.serves_like(each):
                merged[position] = replace(
                    known,
                    training=known.training + _only_others(each.training, known.training_names),
                    made_names=known.made_names | each.made_names,
                )
                break
        else:
            merged.append(each)
    return tuple(merged)


def _only_others(training: Pipeline, known: frozenset[str]) -> Pipeline:
    # By name, since a node that was tagged meanwhile is another one to Kedro, which allows no output to be made twice.
    return training.only_nodes(*(node.name for node in training.nodes if node.name not in known))


def _find_pipeline_problems(training: Pipeline, inference: Pipeline, given: tuple[str, ...]) -> list[str]:
    if not inference.nodes:
        return ["the inference pipeline has no nodes"]
    problems = []
    if not given or len(set(given)) < len(given):
        problems.append(f"input_name {list(given)!r} is not one or several different names")
    for input_name in given:
        if input_name not in inference.inputs():
            names = ", ".join(sorted(name for name in inference.inputs() if not is_parameter(name))) or "none"
            close = difflib.get_close_matches(input_name, inference.inputs(), n=1)
            meant = f": did you mean {close[0]!r}?" if close else ""
            problems.append(
                f"input_name {input_name!r} is not an input of the inference pipeline (its inputs: {names}){meant}"
            )
        elif is_parameter(input_name):
            problems.append(f"input_name {input_name!r} is a parameter, not a dataset")
    known = {_strip(name) for name in training.datasets()}
    needed = {name for name in inference.inputs() if name not in given and not is_parameter(name)}
    strangers = sorted(name for name in needed if _strip(name) not in known)
    if strangers:
        problems.append(
            f"inference input(s) {', '.join(map(repr, strangers))} come neither out of training nor into it, "
            "and are not parameters: let a node of training read or make them, too"
        )
    if not inference.outputs():
        problems.append(
            "the inference pipeline has no output: let its last node return the answer to an output of its own"
        )
    try:
        make_steps(inference)
    except PipelineMLError as error:
        problems.append(error.message)
    return problems


def _find_unknown(place: str, given: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    problems = []
    for name in sorted(set(given) - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        problems.append(f"{place} has unknown {name!r}: {advice}")
    return problems


def _strip(name: str) -> str:
    return name.partition("@")[0]


def _same(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    # Values may be tables, whose == gives no truth value; those are the same only when they are one object.
    return set(mine) == set(theirs) and all(
        mine[key] is theirs[key] or (type(mine[key]) is type(theirs[key]) and (mine[key] == theirs[key]) is True)
        for key in mine
    )
