"""The values of ``kpm_kwargs`` and ``log_model_kwargs``, and the flavors that datasets of the catalog name."""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kbuild.errors import KbuildError, PipelineMLError, RecordingError
from kbuild.recording.preflight.fault import Fault, did_you_mean
from kbuild.served.calls import COPY_MODES
from kbuild.served.pipeline import check_runner
from kbuild.training.binding import Binding
from kbuild.training.pyfunc import check_hooks

_TABLES = ("metadata", "tags", "params")
# What MLflow reads from a file where it is no mapping or list.
_FILES = ("model_config", "resources")
# MLflow's docs, "Logged models" and "Model registry": what names may not hold.
_BARRED = {"name": "/:.%\"'", "registered_model_name": "/:"}
# Whose datasets have flavors.
_FLAVORED = ("kbuild.", "kedro_mlflow.")
_SIGNATURES = ("auto", "used")


def check_arguments(binding: Binding) -> Iterator[Fault]:
    """What KedroPipelineModel and MLflow would refuse after training."""
    for error in _check_kpm(binding):
        yield Fault(about="kpm_kwargs", error=error)
    for error in (*_check_log_model(binding.log_model_kwargs), *_check_example_parameters(binding)):
        yield Fault(about="log_model_kwargs", error=error)


def _check_kpm(binding: Binding) -> Iterator[KbuildError]:
    kwargs = binding.kpm_kwargs
    try:
        check_hooks(kwargs.get("hooks"), check_runner(kwargs.get("runner"), PipelineMLError))
    except PipelineMLError as error:
        yield PipelineMLError(error.message, hint=error.hint or "leave runner out, or write 'SequentialRunner'")
    mode = kwargs.get("copy_mode")
    modes: list[Any] = list(mode.values()) if isinstance(mode, Mapping) else [mode]
    wrong = [each for each in modes if each is not None and each not in COPY_MODES]
    if wrong:
        known_modes = f"it is {', '.join(COPY_MODES[:-1])} or {COPY_MODES[-1]}"
        yield PipelineMLError(
            f"unknown copy_mode {', '.join(sorted(map(repr, wrong)))}",
            hint=did_you_mean(str(wrong[0]), COPY_MODES, known_modes),
        )
    known = binding.inference.datasets()
    for name in sorted(set(mode) - known, key=str) if isinstance(mode, Mapping) else ():
        yield PipelineMLError(
            f"copy_mode names {name!r}, which is not a dataset of the inference pipeline",
            hint=did_you_mean(str(name), known, f"its datasets: {', '.join(sorted(known))}"),
        )


def _check_log_model(kwargs: Mapping[str, Any]) -> Iterator[KbuildError]:
    from mlflow.models import ModelSignature

    for key, barred in _BARRED.items():
        value = kwargs.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip() or set(value) & set(barred)):
            yield RecordingError(
                f"{key} {value!r} is not a name for a model", hint=f"write a text without any of {' '.join(barred)}"
            )
    paths = kwargs.get("code_paths")
    if isinstance(paths, str | Path):
        yield RecordingError(f"code_paths is one path, {str(paths)!r}", hint=f"write a list: [{str(paths)!r}]")
    else:
        for path in paths or ():
            if not Path(path).exists():
                near = [str(each) for each in Path(path).parent.glob("*")] if Path(path).parent.is_dir() else []
                yield RecordingError(
                    f"code_paths names {str(path)!r}, which is not there",
                    hint=did_you_mean(str(path), near, f"paths are seen from {Path.cwd()}"),
                )
    for key in _TABLES:
        if not isinstance(kwargs.get(key), Mapping | None):
            yield RecordingError(f"{key} is a {type(kwargs[key]).__name__}", hint=f"write a dict: {{'{key}': {{…}}}}")
    signature = kwargs.get("signature")
    if not isinstance(signature, ModelSignature | bool | None) and signature not in _SIGNATURES:
        yield RecordingError(
            f"signature is a {type(signature).__name__}",
            hint="leave it out, write None for no signature, 'used', or mlflow.models.infer_signature(…)",
        )
    for key in _FILES:
        value = kwargs.get(key)
        if isinstance(value, str | Path) and not os.path.isfile(value):  # noqa: PTH113  a text may be too long for a name
            yield RecordingError(
                f"{key} names {str(value)!r}, which is not a file", hint=f"paths are seen from {Path.cwd()}"
            )
    try:
        json.dumps(kwargs.get("model_config") if isinstance(kwargs.get("model_config"), Mapping) else None)
    except (TypeError, ValueError) as error:
        yield RecordingError(
            f"model_config cannot be written as JSON: {error}", hint="write texts, numbers, lists and dicts, or a file"
        )
    yield from _check_lists(kwargs)
    step = kwargs.get("step")
    if step is not None and (not isinstance(step, int) or isinstance(step, bool)):
        yield RecordingError(f"step {step!r} is not a whole number", hint="write a number, or leave it out")
    try:
        yaml.safe_dump(kwargs.get("metadata"))
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())[:200]
        yield RecordingError(f"metadata cannot be written into MLmodel: {told}", hint="write texts, numbers and lists")
    waiting = kwargs.get("await_registration_for")
    if waiting is not None and (not isinstance(waiting, int | float) or waiting < 0):
        yield RecordingError(f"await_registration_for {waiting!r} is not a time", hint="write seconds, 0 not to wait")


def _check_lists(kwargs: Mapping[str, Any]) -> Iterator[KbuildError]:
    """Of what MLflow iterates over, or calls methods of, without a look."""
    from mlflow.models.auth_policy import AuthPolicy
    from mlflow.models.resources import Resource

    resources, prompts = kwargs.get("resources"), kwargs.get("prompts")
    listed = isinstance(resources, list | tuple) and all(isinstance(each, Resource) for each in resources)
    if not listed and not isinstance(resources, str | Path | None):
        yield RecordingError(
            "resources are not a list of mlflow.models.resources",
            hint="write [DatabricksServingEndpoint(…)], or a file",
        )
    if not isinstance(prompts, list | tuple | None):
        yield RecordingError(f"prompts is a {type(prompts).__name__}", hint="write a list: ['prompts:/NAME/VERSION']")
    policy = kwargs.get("auth_policy")
    if not isinstance(policy, AuthPolicy | None):
        yield RecordingError(
            f"auth_policy is a {type(policy).__name__}", hint="write an mlflow.models.auth_policy.AuthPolicy"
        )


def _check_example_parameters(binding: Binding) -> Iterator[KbuildError]:
    """Of an ``input_example`` of data and parameters, and of a signature: those that inference has not."""
    example = binding.log_model_kwargs.get("input_example")
    given = example[1] if isinstance(example, tuple) and len(example) == 2 else None
    schema = getattr(binding.log_model_kwargs.get("signature"), "params", None)
    inputs = binding.inference.inputs()
    if "parameters" in inputs:
        return
    known = {name.removeprefix("params:") for name in inputs if name.startswith("params:")}
    named = {"signature": [each.name for each in schema or ()]}
    if isinstance(given, Mapping):
        named["input_example"] = list(given)
    for where, names in named.items():
        for name in (each for each in names if str(each).removeprefix("params:") not in {*known, "runner"}):
            yield RecordingError(
                f"the {where} has the parameter {name!r}, which the inference pipeline has not",
                hint=did_you_mean(str(name), known, f"its parameters: {', '.join(sorted(known)) or 'none'}"),
            )


def check_flavors(datasets: Mapping[str, Any]) -> Iterator[Fault]:
    """Datasets of MLflow's models, kbuild's or kedro-mlflow's, whose flavor nothing can import."""
    for name, dataset in datasets.items():
        flavor = _find_flavor(dataset)
        if not isinstance(flavor, str) or _is_module(flavor):
            continue
        import mlflow

        known = [f"mlflow.{each.name}" for each in pkgutil.iter_modules(mlflow.__path__) if each.ispkg]
        yield Fault(
            about="catalog",
            error=RecordingError(
                f"the dataset {name!r} has the flavor {flavor!r}, which is not a module here",
                hint=did_you_mean(flavor, known, "flavors are modules such as mlflow.sklearn or mlflow.pyfunc"),
            ),
        )


def _find_flavor(dataset: Any) -> Any:
    """The flavor of a dataset of MLflow's models; a class made from one of them may say anything of itself."""
    if not type(dataset).__module__.startswith(_FLAVORED):
        return None
    try:
        described = dataset._describe()
    except Exception:  # noqa: BLE001  whoever loads it says so
        return None
    return described.get("flavor") if isinstance(described, Mapping) else None


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
