"""The files of a model as MLflow saves them, with kbuild's own record and the prediction for the model's example."""

from __future__ import annotations

import copy
import logging
import pickle
import platform
import shutil
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from kbuild._version import __version__
from kbuild.answers import DEFAULT, Tolerance, compare_texts
from kbuild.digest import digest_file
from kbuild.errors import RecordingError
from kbuild.recording._clean_process import find_chain
from kbuild.recording.changes import Mutation, WatchedPlan, watch
from kbuild.recording.clean_check import RECORDED_PREDICTION, SERVING_REQUEST
from kbuild.recording.example import Example
from kbuild.recording.run.git import GitState
from kbuild.recording.shipment.pinning import PinnedEnvironment
from kbuild.served.pipeline import _real, _shared
from kbuild.shipped import model_part
from kbuild.tracking.noted import NOTED
from kbuild.training.pyfunc import KedroPipelineModel
from kbuild.urls.credentials import hide_in_text

# The key of kbuild's own record in the MLmodel file's metadata, and the version of its layout.
METADATA_KEY = "kbuild"
RECORD_FORMAT = 1
_EXAMPLE_HINT = (
    "see that signature and input_example in log_model_kwargs fit each other and the data, or leave them out; "
    "input_example=None logs without an example"
)
_WRITTEN = ("requirements.txt", "constraints.txt", "conda.yaml", "python_env.yaml")
# MLflow copies them of a project that uv manages, with what they hold of credentials. The model needs the packages that
# its record names, no others; and an edit of the project's file would be another image.
_OF_UV = ("uv.lock", "pyproject.toml", ".python-version")
_SAVE_KWARGS = ("auth_policy", "model_config", "resources", "streamable")


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What a model is made of, before its packages are known."""

    model: KedroPipelineModel
    artifacts: dict[str, str]
    example: Example
    package_name: str | None
    log_model_kwargs: dict[str, Any]
    git: GitState | None
    licence: str | None
    reused: tuple[str, ...]
    tolerance: Tolerance = DEFAULT


def copy_example(example: Any) -> Any:
    """A copy, with the objects in a table's cells: MLflow writes NumPy's numbers into dicts of the example that it is
    given, and pandas' own copies share them."""
    if isinstance(example, tuple):
        return tuple(map(copy_example, example))
    copied = copy.deepcopy(example)
    if isinstance(copied, pd.DataFrame):
        for place, kind in enumerate(copied.dtypes):
            if pd.api.types.is_object_dtype(kind):
                cells = [copy.deepcopy(each) for each in copied.iloc[:, place]]
                copied.isetitem(place, pd.Series(cells, index=copied.index, dtype=object))
    return copied


def save_model(draft: Draft, environment: PinnedEnvironment, code_paths: list[str], target: Path) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    kwargs = {name: draft.log_model_kwargs[name] for name in _SAVE_KWARGS if name in draft.log_model_kwargs}
    # MLflow advises against pickled models at each save; the clean process has the last word on this one.
    logger = logging.getLogger("mlflow.pyfunc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    metadata = {**(draft.log_model_kwargs.get("metadata") or {}), METADATA_KEY: _make_metadata(draft)}
    try:
        mlflow.pyfunc.save_model(
            path=str(target),
            python_model=draft.model,
            artifacts=draft.artifacts,
            signature=draft.example.signature,
            input_example=copy_example(draft.example.input_example),
            conda_env=environment.conda_env,
            code_paths=code_paths,
            metadata=metadata,
            **kwargs,
        )
    except MlflowException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise RecordingError(f"MLflow cannot save the model: {error.message}{cause}", hint=_EXAMPLE_HINT) from error
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, pickle.PicklingError) as error:
        # MLflow lets through what its own code was not made for.
        reason = " ".join(str(error).split())
        raise RecordingError(
            f"MLflow cannot save the model: {type(error).__name__}: {reason}", hint=_EXAMPLE_HINT
        ) from error
    finally:
        logger.setLevel(level)
    for name in _OF_UV:
        (target / name).unlink(missing_ok=True)
    for name in _WRITTEN:
        _hide_credentials(target / name)
    for path in (target / name for name in NOTED):
        if path.is_file() and not path.read_bytes().endswith(b"\n"):  # MLflow's constraints.txt
            path.write_bytes(path.read_bytes() + b"\n")
    for compiled in sorted(target.rglob("__pycache__")):
        shutil.rmtree(compiled)
    # MLflow notes where each artifact came from: a path of this machine, of no use to anybody else.
    saved = Model.load(str(target))
    for artifact in saved.flavors["python_function"].get("artifacts", {}).values():
        artifact["uri"] = artifact["path"]
    # A store may cut a file where what is left of it still reads well, and the image would lack what was cut away.
    saved.metadata[METADATA_KEY]["environment"] = {
        name: str(digest_file(target / name)) for name in NOTED if (target / name).is_file()
    }
    saved.save(str(target / "MLmodel"))


def _hide_credentials(path: Path) -> None:
    """What MLflow copies from a constraints file of the user's."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        hidden = hide_in_text(text)
        if hidden != text:
            path.write_text(hidden, encoding="utf-8")


def _make_metadata(draft: Draft) -> dict[str, Any]:
    has_example = draft.example.input_example is not None
    record: dict[str, Any] = {
        "format": RECORD_FORMAT,
        "version": __version__,
        "part": model_part(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()}-{platform.machine()}".lower(),
        "prediction": RECORDED_PREDICTION if has_example else None,
    }
    if draft.tolerance != DEFAULT:
        record["tolerance"] = draft.tolerance.to_json()
    if draft.reused:
        record["reused_inputs"] = list(draft.reused)
    if registered := draft.log_model_kwargs.get("registered_model_name"):
        record["registered_as"] = registered
    if draft.git is not None:
        record |= {"git_commit": draft.git.commit, "git_dirty": draft.git.dirty}
        if draft.git.source is not None:
            record["git_source"] = draft.git.source
    if draft.licence is not None:
        record["licence"] = draft.licence
    return record


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedAnswer:
    """The saved model's answer to the request; ``again`` to the same a second time, None where that was not needed.

    ``changes`` are what its nodes did meanwhile to values that others see too.
    """

    response: str
    again: str | None = None
    changes: tuple[Mutation, ...] = ()
    # Columns of the table that was asked with, where it was seen which are read.
    read: tuple[Hashable, ...] | None = None


def record_prediction(
    saved: Path, values: Mapping[str, Any], *, own: str | None, watched: bool, twice: bool
) -> SavedAnswer | None:
    """Ask the saved model as the scoring server would, and keep the response beside the request, byte for byte.

    ``values`` are its artifacts, loaded already from the very files that it has copies of: they are not loaded again.
    None without an example. ``watched``: what nodes change is noted, and where they change what all requests share, or
    that cannot be told, a second request is made; with ``twice`` in any case. ``own`` is the answer to be expected.
    """
    request = saved / SERVING_REQUEST
    if not request.is_file():
        return None
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    text = request.read_text(encoding="utf-8")

    def ask() -> str:
        answer = scoring_server.invocations(text, "application/json", model, model.metadata.get_input_schema())
        if answer.status != 200:
            raise RecordingError(f"the model cannot answer its own input example: {answer.response}")
        return str(answer.response)

    # Loading puts the model's code folder first on the path, which is to be gone soon.
    path = sys.path
    try:
        with _share(_find_artifacts(saved), values):
            # It was pinned to what is installed here a moment ago.
            model = mlflow.pyfunc.load_model(str(saved), suppress_warnings=True)
        plan = watch(model.unwrap_python_model()) if watched else None
        response = ask() if plan is None else _ask_observed(ask, plan, own)
        changes = () if plan is None else plan.changes
        read = None if plan is None or plan.reads is None else tuple(plan.reads.names)
        doubtful = watched and (plan is None or plan.unwatched or any(change.shared for change in changes))
        again = ask() if twice or doubtful else None
    except RecordingError:
        raise
    except Exception as error:  # the nodes are the user's code, which may raise anything
        cause = _find_cause(error)
        raise RecordingError(f"the model cannot answer its own input example: {cause}", hint=_EXAMPLE_HINT) from error
    finally:
        sys.path = path
    (saved / RECORDED_PREDICTION).write_text(response, encoding="utf-8")
    return SavedAnswer(response=response, again=again, changes=changes, read=read)


def _ask_observed(ask: Callable[[], str], plan: WatchedPlan, own: str | None) -> str:
    """The answer; asked again without observing what is read, where a node might not have stood that."""
    try:
        response = ask()
    except Exception:
        if plan.reads is None:
            raise
    else:
        if plan.reads is None or own is None or compare_texts(own, response).same:
            return response
    plan.observes, plan.reads = False, None
    return ask()


@contextmanager
def _share(artifacts: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[None]:
    """Let a model of these artifacts that is loaded meanwhile have the values (``kbuild.served.pipeline.adopt``)."""
    key = _real(artifacts)
    if values:
        _shared[key] = SimpleNamespace(_values=dict(values))  # type: ignore[assignment]
    try:
        yield
    finally:
        _shared.pop(key, None)


def _find_artifacts(saved: Path) -> dict[str, str]:
    from mlflow.models import Model

    artifacts = Model.load(str(saved)).flavors["python_function"].get("artifacts") or {}
    return {name: str(saved / each["path"]) for name, each in artifacts.items()}


def _find_cause(error: BaseException) -> str:
    last = find_chain(error)[-1]
    return f"{type(last).__name__}: {last}"
