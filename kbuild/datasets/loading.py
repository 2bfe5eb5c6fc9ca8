"""Loading and saving with MLflow's flavors: model files in, a model object out, and the other way round."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from kedro.io.core import DatasetError
from packaging.requirements import InvalidRequirement, Requirement

from kbuild.errors import KbuildError
from kbuild.recording.shipment.deferred_file import is_same_code

PYFUNC = "mlflow.pyfunc"
WORKFLOWS = ("python_model", "loader_module")

_logger = logging.getLogger(__name__)


def check_flavor(flavor: Any, workflow: Any) -> None:
    """Refuse what cannot be meant, without importing the flavor; raises DatasetError."""
    if not isinstance(flavor, str) or not all(part.isidentifier() for part in flavor.split(".")):
        raise DatasetError(f"flavor {flavor!r} is not a module, such as mlflow.pyfunc or mlflow.sklearn")
    choices = " or ".join(WORKFLOWS)
    if workflow is not None and workflow not in WORKFLOWS:
        raise DatasetError(f"pyfunc_workflow {workflow!r} is unknown; it is {choices}")
    if flavor == PYFUNC and workflow is None:
        raise DatasetError(f"flavor {PYFUNC} needs a pyfunc_workflow: {choices}")


def copy_arguments(name: str, given: Any) -> dict[str, Any]:
    """The dataset's own copy of a mapping of arguments; raises DatasetError for anything else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise DatasetError(f"{name} is a mapping of arguments, not {given!r}")
    return dict(given)


@contextmanager
def one_line_errors(dataset: Any, problem: str) -> Iterator[None]:
    """Turn whatever a flavor, a store or a model raises into a DatasetError of one line that names the dataset."""
    kind = type(dataset).__name__
    try:
        yield
    except DatasetError as error:
        raise type(error)(f"{kind}: {' '.join(str(error).split())}") from error
    except KbuildError as error:
        raise DatasetError(f"{kind}: {problem}: {error.message}{f'; {error.hint}' if error.hint else ''}") from error
    except Exception as error:  # flavors, models and stores are other people's code, which may raise anything
        text = " ".join(str(error).split())
        raise DatasetError(f"{kind}: {problem}: {type(error).__name__}: {text}") from error


def load_folder(flavor: str, folder: Path, load_args: Mapping[str, Any]) -> Any:
    """The model in a folder as the flavor loads it; with ``mlflow.pyfunc`` it has ``predict``, in either workflow.

    The model's own code is imported with it, and warned of where other code of that name is imported already.
    Call it from one thread at a time. Raises DatasetError.
    """
    module = _import_flavor(flavor, "load_model")
    for note in find_other_code(folder / "code"):
        _logger.warning(note)
    path = sys.path
    before = list(path)
    try:
        return module.load_model(str(folder), **load_args)
    except ModuleNotFoundError as error:
        raise DatasetError(_describe_missing(error, folder)) from error
    finally:
        # MLflow puts the model's code first, where it would hide modules that this project has yet to import.
        path.extend(each for each in sys.path if each not in before)
        sys.path = path


def find_other_code(code: Path) -> list[str]:
    """One line for each package of a model that is imported already, from elsewhere and with other contents.

    Python keeps one module of a name: the model would run the code that is there, not the code it was logged with.
    """
    notes = []
    # kbuild's part of the model is told apart by the format of the model's state.
    tops = {entry.stem for entry in code.iterdir() if entry.stem != "kbuild"} if code.is_dir() else set()
    for top in sorted(tops):
        changed = [name for name in sorted(sys.modules) if name.partition(".")[0] == top and _differs(name, code)]
        if changed:
            where = getattr(sys.modules.get(top), "__file__", None) or "elsewhere"
            notes.append(
                f"The model brings its own {', '.join(changed)}, but other code of that name is imported already "
                f"({where}): the model runs that code. Load it in a process of its own to be sure."
            )
    return notes


def log_model(flavor: str, workflow: str | None, model: Any, name: str, save_args: Mapping[str, Any]) -> str:
    """Log a model to the active run; returns its uri. Raises DatasetError, and what the flavor raises."""
    function = _import_flavor(flavor, "log_model").log_model
    # Flavors written for MLflow 2 know the name as artifact_path.
    key = "name" if "name" in inspect.signature(function).parameters else "artifact_path"
    args, kwargs = _place_model(flavor, workflow, model)
    return str(function(*args, **{key: name}, **kwargs, **save_args).model_uri)


def save_folder(flavor: str, workflow: str | None, model: Any, folder: Path, save_args: Mapping[str, Any]) -> None:
    """Save a model into a new folder. Raises DatasetError, and what the flavor raises."""
    function = _import_flavor(flavor, "save_model").save_model
    args, kwargs = _place_model(flavor, workflow, model)
    function(*args, path=str(folder), **kwargs, **save_args)


def _place_model(flavor: str, workflow: str | None, model: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if flavor != PYFUNC or workflow is None:
        return (model,), {}
    return (), {workflow: model}


def _import_flavor(flavor: str, function: str) -> ModuleType:
    try:
        module = importlib.import_module(flavor)
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"flavor {flavor!r} cannot be imported: {error}; see flavor, and what is installed"
        ) from error
    if not callable(getattr(module, function, None)):
        raise DatasetError(f"flavor {flavor!r} has no {function}(), so it is not a flavor of MLflow's kind")
    return module


def _differs(name: str, code: Path) -> bool:
    loaded = getattr(sys.modules[name], "__file__", None)
    place = code.joinpath(*name.split("."))
    own = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if loaded is None or not own.is_file() or Path(loaded).is_relative_to(code):
        return False
    try:
        return not is_same_code(own.read_bytes(), Path(loaded).read_bytes())
    except OSError:
        # What was imported is gone from the disk, so nobody can say that it is the same.
        return True


def _describe_missing(error: ModuleNotFoundError, folder: Path) -> str:
    wanted = " ".join(_find_uninstalled(folder / "requirements.txt"))
    advice = f"pip install {wanted}" if wanted else "its requirements are all here: it was logged without that code"
    return f"the model needs the module {error.name!r}, which this environment does not have; {advice}"


def _find_uninstalled(requirements: Path) -> list[str]:
    missing = []
    for line in requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else ():
        try:
            requirement = Requirement(line)
            version(requirement.name)
        except InvalidRequirement:
            continue  # an option, or a file of constraints
        except PackageNotFoundError:
            missing.append(str(requirement))
    return missing
