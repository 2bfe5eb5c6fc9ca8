"""From a Kedro catalog to the files of a model: each inference input described, found, fetched or staged."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from kbuild.errors import RecordingError
from kbuild.served.calls import is_parameter
from kbuild.served.inputs import JSON_SUFFIX, PICKLE_SUFFIX, InputSource

if TYPE_CHECKING:
    from kedro.io import AbstractDataset, CatalogProtocol

# Constructor arguments that say where and how a file is reached, or written: none of it holds where a model is served.
_DROPPED_ARGUMENTS = {"filepath", "credentials", "fs_args", "save_args", "version", "versioned", "metadata"}
_DROPPED_LOAD_ARGS = {"storage_options", "filesystem"}
_LOCAL_PROTOCOLS = ("file", "local", "")


def describe_inputs(names: Iterable[str], catalog: CatalogProtocol) -> dict[str, InputSource]:
    """How each inference input is stored and read, by name, in sorted order."""
    return {name: _describe(name, catalog) for name in sorted(names)}


def extract_artifacts(
    sources: Mapping[str, InputSource],
    catalog: CatalogProtocol,
    folder: str | Path | None = None,
    captured: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Files for every described input, as ``{name: file uri}``; what has to be staged or fetched goes into ``folder``.

    Without one that is a temporary folder, which is there as long as this process.
    ``captured`` holds values of in-memory datasets that the runner has released since.
    Raises RecordingError naming every input without data.
    """
    target = _passing_folder() if folder is None else Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    captured = captured or {}
    found: dict[str, Path] = {}
    missing: list[str] = []
    for number, (name, source) in enumerate(sources.items()):
        dataset = find_dataset(name, catalog)
        # A folder for each: two names may become one file name.
        own = target / str(number)
        try:
            if source.kind == "dataset" and dataset is not None:
                found[name] = _fetch(name, dataset, own)
            elif name in captured:
                found[name] = _stage(name, captured[name], own)
            elif dataset is None:
                missing.append(f"{name!r} is in no catalog")
            else:
                found[name] = _stage(name, _load(name, dataset), own)
        except _NoData as error:
            missing.append(str(error))
    if missing:
        raise RecordingError(
            "the inference pipeline's inputs are not all there: " + "; ".join(missing),
            hint="run the nodes that make them, or give these datasets a file in the catalog",
        )
    return {name: path.as_uri() for name, path in _rename_doubles(found, target).items()}


class _NoData(Exception):
    pass


def _passing_folder() -> Path:
    # MLflow copies what is in it when the model is logged: nobody who asked without a folder knows where it is.
    folder, owner = tempfile.mkdtemp(prefix="kbuild-inputs-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a process that was forked from it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


def find_dataset(name: str, catalog: CatalogProtocol) -> AbstractDataset[Any, Any] | None:
    """The dataset of that name, unwrapped from its cache; None when the catalog has none."""
    dataset = catalog.get(name)
    while dataset is not None and type(dataset).__name__ == "CachedDataset":
        dataset = dataset._dataset
    return dataset


def is_persisted(dataset: Any) -> bool:
    """Whether the dataset is one file or folder that a model can carry."""
    return getattr(dataset, "_filepath", None) is not None and not getattr(dataset, "_EPHEMERAL", False)


def _describe(name: str, catalog: CatalogProtocol) -> InputSource:
    if is_parameter(name):
        return InputSource(kind="parameter")
    dataset = find_dataset(name, catalog)
    if dataset is None or not is_persisted(dataset):
        return InputSource(kind="object")
    # Kedro keeps what a dataset was made with here, and its own to_config() reads it.
    given = getattr(dataset, "_init_args", {})
    arguments = {key: value for key, value in given.items() if key not in _DROPPED_ARGUMENTS and value is not None}
    if isinstance(arguments.get("load_args"), Mapping):
        load_args = {key: value for key, value in arguments["load_args"].items() if key not in _DROPPED_LOAD_ARGS}
        arguments["load_args"] = load_args
    arguments = {key: value for key, value in arguments.items() if value not in ({}, [])}
    if not _is_plain(arguments):
        # It cannot be told in plain values how the file is read, so the value itself is kept.
        return InputSource(kind="object")
    kind = type(dataset)
    return InputSource(kind="dataset", type=f"{kind.__module__}.{kind.__qualname__}", arguments=arguments)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    if isinstance(value, str):
        return not (len(value) > 1 and Path(value).is_absolute())
    return value is None or isinstance(value, bool | int | float)


def _fetch(name: str, dataset: Any, target: Path) -> Path:
    """The dataset's file or folder on this machine; remote ones are downloaded into ``target``."""
    from kedro.io import DatasetError

    try:
        exists = dataset.exists()
    except DatasetError as error:
        raise _NoData(f"{name!r} cannot be looked for: {error}") from error
    versioned = hasattr(dataset, "_get_load_path")
    if not exists:
        raise _NoData(f"{name!r} has no file yet ({dataset._filepath})")
    path = str(dataset._get_load_path() if versioned else dataset._filepath)
    protocol = getattr(dataset, "_protocol", "file")
    if protocol in _LOCAL_PROTOCOLS:
        return Path(path).resolve()
    fetched = target / Path(path).name
    fetched.parent.mkdir(parents=True, exist_ok=True)
    try:
        dataset._fs.get(path, str(fetched), recursive=bool(dataset._fs.isdir(path)))
    except OSError as error:
        raise RecordingError(f"input {name!r} cannot be fetched from {protocol}: {error}") from error
    return fetched


def _load(name: str, dataset: Any) -> Any:
    from kedro.io import DatasetError

    try:
        return dataset.load()
    except DatasetError as error:
        raise _NoData(f"{name!r} has no data: {' '.join(str(error).split())}") from error


def _stage(name: str, value: Any, target: Path) -> Path:
    """Write a value as JSON, where that gives it back unchanged (parameters mostly do), else as a pickle."""
    target.mkdir(parents=True, exist_ok=True)
    if is_parameter(name):
        try:
            text = json.dumps(value, ensure_ascii=False, indent=1)
            unchanged = _same_json(json.loads(text), value)
        except (TypeError, ValueError):
            unchanged = False
        if unchanged:
            path = target / f"{_safe(name)}{JSON_SUFFIX}"
            path.write_text(text, encoding="utf-8")
            return path.resolve()
    path = target / f"{_safe(name)}{PICKLE_SUFFIX}"
    with path.open("wb") as file:
        try:
            cloudpickle.dump(value, file)
        except Exception as error:  # a pickled object may raise anything of its own
            raise RecordingError(
                f"input {name!r} is in memory and cannot be pickled: {error}",
                hint="give it a file in the catalog, with a dataset type that can save it",
            ) from error
    return path.resolve()


def _same_json(read: Any, value: Any) -> bool:
    if type(read) is not type(value):
        return False
    if isinstance(value, dict):
        return set(read) == set(value) and all(_same_json(read[key], value[key]) for key in value)
    if isinstance(value, list):
        return len(read) == len(value) and all(map(_same_json, read, value))
    return bool(read == value)


def _safe(name: str) -> str:
    # Letters of ASCII only: a file of that name can be made under any locale, and is the same one.
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)


def _rename_doubles(found: Mapping[str, Path], target: Path) -> dict[str, Path]:
    """MLflow keeps an artifact under its last name only, so equal last names are told apart by a copy."""
    seen: set[str] = set()
    renamed = {}
    for name, path in found.items():
        if path.name in seen:
            names = (f"{number}-{_safe(name)}{path.suffix}" for number in count(len(seen)))
            copied = target / next(each for each in names if each not in seen and not (target / each).exists())
            if path.is_dir():
                shutil.copytree(path, copied)
            else:
                shutil.copyfile(path, copied)
            path = copied.resolve()
        seen.add(path.name)
        renamed[name] = path
    return renamed
