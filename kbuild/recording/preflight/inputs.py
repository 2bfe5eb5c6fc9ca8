"""The inputs of inference: whether each will be there when training has ended, and can be read."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kbuild.errors import KbuildError, PipelineMLError, RecordingError
from kbuild.recording.input.early import check_kind
from kbuild.recording.input.used import is_used
from kbuild.recording.preflight.fault import Fault, did_you_mean
from kbuild.served.calls import is_parameter
from kbuild.training.described import describe, find_dataset, is_in_memory, is_persisted, load_place
from kbuild.training.pipeline_ml import PipelineML

_LOCAL = ("file", "local", "")
_logger = logging.getLogger(__name__)
_URL = re.compile(r"[A-Za-z][\w+.-]+:/")


def find_datasets(planned: PipelineML, catalog: Any) -> tuple[dict[str, Any], list[Fault]]:
    """The catalog's entries for all that the two pipelines name, and those that cannot be made."""
    found, findings = {}, []
    for name in sorted(planned.datasets() | planned.inference.datasets()):
        try:
            found[name] = find_dataset(name, catalog)
        except Exception as error:  # noqa: BLE001  its class is the user's, and may raise anything
            text = " ".join(str(error).split()) or type(error).__name__
            findings.append(
                Fault(
                    about="catalog",
                    error=RecordingError(
                        f"the dataset {name!r} cannot be made: {text}",
                        hint="mend its entry in the catalog, or install what its type needs",
                    ),
                )
            )
    return found, findings


def check_inputs(
    planned: PipelineML, datasets: Mapping[str, Any], catalog: Any, *, data: bool = True, stale: bool = False
) -> Iterator[Fault]:
    """``datasets`` are those of ``find_datasets``; without ``data`` no file has to be there yet.

    ``stale`` where more nodes have to run than are planned, as is told already.
    """
    made = {strip(name) for name in (planned.binding.training if stale else planned).all_outputs()}
    # Of several inputs of a request the inference pipeline names one, which is no dataset.
    for name in sorted((planned.inference.inputs() - {planned.input_name}) | set(planned.input_names)):
        if name not in datasets:
            continue  # its entry cannot be made, which is told already
        is_request = name in planned.input_names
        try:
            error = _check_input(name, datasets[name], planned, catalog, made=strip(name) in made, data=data)
        except Exception as fault:  # noqa: BLE001  a dataset of the user's may raise anything: who loads it tells
            _logger.info("The input %r cannot be looked at before training: %s", name, type(fault).__name__)
            continue
        if error is not None:
            yield Fault(about="input_name" if is_request else "input", error=error)


def _check_input(
    name: str, dataset: Any, planned: PipelineML, catalog: Any, *, made: bool, data: bool
) -> KbuildError | None:
    kwargs = dict(planned.log_model_kwargs)
    # Whoever brings signature or example can do without the data; where there are some, they have to agree.
    needed = name not in planned.input_names or _needs_data(kwargs)
    error = None if dataset is None or not needed else _check_class(name, dataset)
    if error is None and needed and not made:
        error = _check_there(name, dataset, planned, catalog, data=data)
    if error is None and name in planned.input_names:
        several = len(planned.input_names) > 1
        if several:
            if not is_used(kwargs.get("signature")):
                kwargs.pop("signature", None)
            kwargs.pop("input_example", None)  # of all of them
        error = check_kind(name, dataset, kwargs, made=made or not data, catalog=catalog, among=several)
    return error


def find_values(planned: PipelineML, datasets: Mapping[str, Any]) -> Iterator[str]:
    """Notes for the user: the inputs that no file can bring, and whose value travels."""
    for name in sorted(planned.inference.inputs() - {planned.input_name}):
        dataset = datasets.get(name)
        if dataset is None or is_in_memory(dataset) or is_parameter(name):
            continue
        try:
            travels = describe(name, dataset).kind == "object"
        except Exception as fault:  # noqa: BLE001  the same
            _logger.info("The input %r cannot be looked at before training: %s", name, type(fault).__name__)
            continue
        if travels:
            yield f"The input {name!r} ({type(dataset).__name__}) goes into the model as its value, pickled."


def _needs_data(kwargs: Mapping[str, Any]) -> bool:
    """Whether signature or example are inferred from the input's data."""
    signature, example = kwargs.get("signature", "auto"), kwargs.get("input_example", "auto")
    inferred = signature is True or isinstance(signature, str)
    given = not isinstance(example, bool | None) and not (isinstance(example, str) and example == "auto")
    return inferred and not given


def _check_there(name: str, dataset: Any, planned: PipelineML, catalog: Any, *, data: bool) -> KbuildError | None:
    """An input that no node of this run makes."""
    known = {*planned.binding.training.datasets(), *names_of(catalog)} - {name}
    if dataset is None and name in planned.binding.training.datasets() and not is_parameter(name):
        return RecordingError(
            f"no data of the inference input {name!r} will be left: no node that runs makes it, and it is in no file",
            hint=f"run the nodes that make it too, or give {name!r} a file in the catalog",
        )
    if dataset is None and is_parameter(name):
        known = {each for each in names_of(catalog) if is_parameter(each)}  # training may name others that lack
        return PipelineMLError(
            f"the inference pipeline's {name!r} is in no parameters file",
            hint=did_you_mean(
                name, known, f"add it to conf/base/parameters.yml: {name.removeprefix('params:')}: VALUE"
            ),
        )
    if dataset is None:
        known = {each for each in known if not is_parameter(each)}
        return PipelineMLError(
            f"{name!r} is neither made by training nor in the catalog",
            hint=did_you_mean(
                name,
                known,
                f"name one whose rows are like a request's: {', '.join(sorted(known)) or 'none is known'}; or "
                "give the catalog a file with a few such rows (kbuild help howto#choose-an-input)",
            ),
        )
    if is_in_memory(dataset):
        return None if exists(dataset) else RecordingError(
            f"{name!r} has no data in memory, and no node that runs makes it",
            hint=f"run the nodes that make it, or give {name!r} a file in the catalog",
        )  # fmt: skip
    if data and is_persisted(dataset) and is_local(dataset) and not exists(dataset):
        hint = "put the file there, or run the nodes that make it"
        # A pattern of the catalog has an entry for any name, also for one that is misspelled.
        others = set() if name in (known := planned.binding.training.datasets()) else known
        meant = did_you_mean(name, (each for each in others if not is_parameter(each)), "")
        return RecordingError(
            f"{name!r} has no file yet ({Path(str(dataset._filepath)).name}), and no node that runs makes it",
            hint=f"{meant} Else {hint}" if meant else hint,
        )
    return check_full(name, dataset) if data and is_persisted(dataset) and is_local(dataset) else None


def check_full(name: str, dataset: Any) -> KbuildError | None:
    """What its class says of a file without a byte, which may be what it should be, a text say."""
    try:
        place = Path(str(load_place(dataset)))
        if not place.is_file() or place.stat().st_size:
            return None
    except Exception:  # noqa: BLE001  the dataset is the user's code, which may raise anything
        return None
    try:
        dataset.load()
    except Exception as error:  # noqa: BLE001  as above
        cause = " ".join(str(error.__cause__ or error).split())[:200]
        return RecordingError(
            f"the file of {name!r} ({place.name}) is empty: {cause}", hint="bring the file again, with its data"
        )
    return None


def is_local(dataset: Any) -> bool:
    """Whether it is a file of this machine, and its class says by itself whether that is there."""
    from kedro.io import AbstractDataset

    if getattr(dataset, "run_id", None) is not None:
        return False  # kedro-mlflow's, which brings it from that run
    told = getattr(type(dataset), "_exists", AbstractDataset._exists) is not AbstractDataset._exists
    return told and getattr(dataset, "_protocol", "file") in _LOCAL and not _URL.match(str(dataset._filepath))


def exists(dataset: Any) -> bool:
    """False only where it is surely not there: what a dataset of the user's raises tells nothing."""
    from kedro.io import DatasetError

    try:
        if not is_in_memory(dataset):
            place = load_place(dataset)
            if Path(str(place)).exists():
                return True
        return bool(dataset.exists())
    except DatasetError as error:
        return error.__cause__ is not None  # else there is no version of it
    except Exception:  # noqa: BLE001  the dataset is the user's code, which may raise anything
        return True


def _check_class(name: str, dataset: Any) -> KbuildError | None:
    """Refuse a dataset that can be written and not read, as those of plots."""
    load = inspect.unwrap(getattr(type(dataset).load, "__loadfunc__", type(dataset).load))
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(load))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None  # compiled, or made while running: only loading tells
    body = [each for each in getattr(function, "body", []) if not _is_text(each)]
    if len(body) == 1 and isinstance(body[0], ast.Raise):
        return RecordingError(
            f"{name!r} is a {type(dataset).__name__}, which can be saved and not loaded",
            hint="give it another type in the catalog, such as pickle.PickleDataset",
        )
    return None


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def names_of(catalog: Any) -> set[str]:
    return set(catalog.keys()) if hasattr(catalog, "keys") else set(catalog.list())


def strip(name: str) -> str:
    return name.partition("@")[0]
