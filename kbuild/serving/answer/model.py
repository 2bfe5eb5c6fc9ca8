"""The loaded model and its answer to a request: the short way where there is one, else MLflow's own.

Protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally ("Inference Server Specification").
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import kbuild
from kbuild.errors import InvalidModel
from kbuild.serving.answer.columns import Values
from kbuild.serving.answer.fast import FastOutcome, FastPath, is_own, make_fast_path
from kbuild.serving.answer.load_model import LeanModel, load_lean
from kbuild.serving.answer.mlflow_side import MlflowSide
from kbuild.serving.answer.model_facts import Facts, read_facts
from kbuild.serving.answer.params import find_unknown
from kbuild.serving.answer.reply import JSON, TOO_DEEP, Reply, error_reply

# What MLflow's server sets while it serves, for models that ask.
_SERVING_VARIABLE = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"


class SlowWay(Protocol):
    """MLflow's reply to a request; ``known`` is what the pipeline has given already, which then is not asked."""

    def __call__(self, body: bytes, content_type: str, known: FastOutcome | None = None) -> Reply: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model that can be asked; may be asked in many threads at once.

    ``app`` is MLflow's own ASGI app of this model; ``when_ready`` is called once its example is predicted.
    ``parameters`` are those that a request may bring, None where that is MLflow's to say.
    """

    facts: Facts
    app: Any
    fast: FastPath | None
    slow: SlowWay
    when_ready: Callable[[], None] | None = None
    parameters: frozenset[str] | None = None

    def answer(self, body: bytes, content_type: str) -> tuple[Reply, bool]:
        """The reply to ``POST /invocations``, and whether the short way gave it."""
        try:
            found = None if self.fast is None else self.fast.answer(body, content_type)
        except RecursionError:
            return TOO_DEEP, True
        if isinstance(found, bytes):
            return Reply(status=200, body=found), True
        return self._answer_slowly(body, content_type, found), False

    def answer_columns(
        self, columns: Mapping[str, Values], params: Any, as_json: Callable[[], bytes]
    ) -> tuple[Reply, bool]:
        """The same of a table by its columns; ``as_json`` writes the question where MLflow has to be asked."""
        found = None if self.fast is None else self.fast.answer_columns(columns, params)
        if isinstance(found, bytes):
            return Reply(status=200, body=found), True
        return self._answer_slowly(as_json(), JSON, found), False

    def _answer_slowly(self, body: bytes, content_type: str, known: FastOutcome | None) -> Reply:
        if known is not None:
            return self.slow(body, content_type, known)
        if self.parameters is not None and (unknown := find_unknown(body, self.parameters)) is not None:
            return error_reply(400, "BAD_REQUEST", unknown)
        return self.slow(body, content_type)


def load_model(folder: Path, *, stack_traces: bool = False, import_mlflow: str = "eager") -> ServedModel:
    """Load the MLflow model in ``folder``; raises InvalidModel when it does not load.

    ``import_mlflow`` says when MLflow is imported: now (``eager``), once the model is ready (``background``), or at
    the first request that the short way does not answer (``lazy``). Where the short way does not even answer the
    model's own example, or does not exist, it is now.
    """
    prefer_model_code(folder)
    try:
        lean = None if import_mlflow == "eager" else load_lean(folder)
    except Exception as error:  # loading runs the model's code: anything can come out of it
        reason = " ".join(str(error).split())
        raise InvalidModel(f"the model in {folder} does not load: {type(error).__name__}: {reason}") from error
    version = "" if lean is None else lean.facts.mlflow_version
    side = MlflowSide(folder, stack_traces=stack_traces, version=version)
    if lean is None:
        loaded = side.load()
        facts, fast = read_facts(loaded, folder), make_fast_path(loaded)
        own = parameters_of(facts) if is_own(loaded) else None
        return ServedModel(facts=facts, app=side, fast=fast, slow=side.answer, parameters=own)
    os.environ[_SERVING_VARIABLE] = "true"
    if not _answers_its_example(lean):
        side.load()
    return ServedModel(
        facts=lean.facts,
        app=side,
        fast=lean.fast,
        slow=side.answer,
        when_ready=side.load_in_background if import_mlflow == "background" else None,
        parameters=parameters_of(lean.facts),
    )


def parameters_of(facts: Facts) -> frozenset[str]:
    """The names that a request may bring values for."""
    return frozenset(str(each["name"]) for each in facts.params or ())


def prefer_model_code(model: Path) -> None:
    """Let a model that carries its own part of kbuild use that, not the one this server came with.

    The server's ``kbuild`` package is already imported, so putting the model's copy on ``sys.path`` is not enough.
    A model of kbuild 0.1 before there was ``kbuild.served`` is read by this server's own code, which knows its format:
    half of one and half of the other would load it twice.
    """
    carried = model / "code" / "kbuild"
    if (carried / "served").is_dir():
        kbuild.__path__.insert(0, str(carried))


def _answers_its_example(lean: LeanModel) -> bool:
    """Whether the short way reads the model's example; it is not predicted, since workers may yet be forked."""
    if lean.facts.example is None:
        return True
    try:
        lean.fast.read(lean.facts.example, JSON)
    except Exception:  # noqa: BLE001  whatever it is, MLflow has to say it
        return False
    return True
