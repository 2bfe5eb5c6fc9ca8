"""What a catalog entry says of how its data is read, in plain values: all that a model keeps of a dataset."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbuild.served.calls import is_parameter
from kbuild.served.inputs import InputSource, load_staged

if TYPE_CHECKING:
    from kedro.io import AbstractDataset, CatalogProtocol

# Constructor arguments that say where and how a file is reached, or written: none of it holds where a model is served.
_DROPPED_ARGUMENTS = {"filepath", "credentials", "fs_args", "save_args", "version", "versioned", "metadata"}
_OF_ITS_PLACE = {"filepath", "credentials", "version", "versioned", "metadata"}
_DROPPED_LOAD_ARGS = {"storage_options", "filesystem"}
LOCAL_PROTOCOLS = ("file", "local", "")  # fsspec's names of this machine's files
# Datasets whose file says what to ask for, and a database answers.
_QUERIES = re.compile("SQL|Query|GBQ|API")


def find_dataset(name: str, catalog: CatalogProtocol) -> AbstractDataset[Any, Any] | None:
    """The dataset of that name, unwrapped from its cache, or from being an artifact; None when there is none."""
    dataset = catalog.get(name)
    while (inner := _unwrap(dataset)) is not None:
        dataset = inner
    return dataset


def uncached(dataset: Any) -> Any:
    """The dataset that caches wrap, or itself."""
    while type(dataset).__name__ == "CachedDataset":
        dataset = dataset._dataset
    return dataset


def _unwrap(dataset: Any) -> Any:
    if (inner := uncached(dataset)) is not dataset:
        return inner
    return dataset.wrapped if type(dataset).__module__ == "kbuild.datasets.artifact" else None


def is_persisted(dataset: Any) -> bool:
    """Whether the dataset is one file or folder that a model can carry; the file of a query is not its data."""
    if getattr(dataset, "_filepath", None) is None or is_in_memory(dataset):
        return False
    return not any(_QUERIES.search(kind.__name__) for kind in type(dataset).__mro__)


def load_place(dataset: Any) -> Any:
    """What a persisted dataset reads, of a versioned one the version that it would load; raises as Kedro does."""
    return dataset._get_load_path() if hasattr(dataset, "_get_load_path") else dataset._filepath


def is_in_memory(dataset: Any) -> bool:
    """Whether what a node returned is what is loaded, until the runner releases it."""
    return bool(getattr(dataset, "_EPHEMERAL", False))


def is_partitioned(value: Any) -> bool:
    """Whether a value is what Kedro's PartitionedDataset loads, or a model of it: callables that load a part each."""
    return isinstance(value, dict) and bool(value) and all(map(_loads_part, value.values()))


def _loads_part(each: Any) -> bool:
    if isinstance(each, partial):
        return each.func is load_staged
    return callable(getattr(each, "__func__", None)) and each.__name__ == "load" and hasattr(each.__self__, "_describe")


def describe(name: str, dataset: Any) -> InputSource:
    if is_parameter(name):
        return InputSource(kind="parameter")
    if dataset is None or not is_persisted(dataset):
        return InputSource(kind="object")
    return next(describe_all(dataset), InputSource(kind="object"))


def describe_all(dataset: Any) -> Iterator[InputSource]:
    """The ways to read a dataset's file that can be told in plain values: by its class, and by each base of that."""
    given = _get_arguments(dataset)
    arguments = {key: value for key, value in given.items() if key not in _DROPPED_ARGUMENTS and value is not None}
    if isinstance(arguments.get("load_args"), Mapping):
        load_args = {key: value for key, value in arguments["load_args"].items() if key not in _DROPPED_LOAD_ARGS}
        arguments["load_args"] = load_args
    arguments = {key: value for key, value in arguments.items() if value not in ({}, [])}
    if not _is_plain(arguments):
        # It cannot be told in plain values how the file is read, so the value itself is kept.
        return
    for kind in type(dataset).__mro__:
        if kind.__module__.startswith("kedro.io"):
            return
        if _is_importable(kind) and not inspect.isabstract(kind):
            yield InputSource(kind="dataset", type=f"{kind.__module__}.{kind.__qualname__}", arguments=arguments)


def remake(dataset: Any, folder: Path) -> Any:
    """Another dataset that reads and writes as this one does, with a file of its own in ``folder``; None where none is.

    Where it is kept, which version and whose credentials is not taken over. Made anew is what fsspec writes to this
    machine: to Spark, and to classes of other kinds, the same path may be a place that others share.
    """
    from kedro.io import AbstractVersionedDataset

    if not isinstance(dataset, AbstractVersionedDataset) or not hasattr(dataset, "_protocol"):
        return None
    given = {key: value for key, value in _get_arguments(dataset).items() if key not in _OF_ITS_PLACE}
    folder.mkdir()
    path = folder / Path(str(dataset._filepath)).name
    try:
        made = type(dataset)(filepath=str(path), **copy.deepcopy(given))
    except Exception:  # noqa: BLE001  the class is anybody's
        return None
    local = getattr(made, "_protocol", None) in LOCAL_PROTOCOLS and Path(str(made._filepath)) == path
    return made if local else None


def _get_arguments(dataset: Any) -> dict[str, Any]:
    """What a dataset was made with, by keyword: Kedro keeps it, with ``**options`` as one argument of that name."""
    given = dict(getattr(dataset, "_init_args", {}))
    # A class without a constructor of its own has Kedro's wrapper as one, of (self, *args, **kwargs).
    loose: dict[str, Any] = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}
    for kind in type(dataset).__mro__:
        if "__init__" in vars(kind) and not kind.__module__.startswith("kedro.io"):
            parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            loose |= {each.name: each.kind for each in parameters}
    for name, form in loose.items():
        if form is inspect.Parameter.VAR_KEYWORD and isinstance(given.get(name), dict):
            given |= given.pop(name)
        elif form is inspect.Parameter.VAR_POSITIONAL and given.get(name) == ():
            del given[name]
    return given


def _is_importable(kind: type) -> bool:
    found: Any = sys.modules.get(kind.__module__)
    return kind.__module__ != "__main__" and getattr(found, kind.__qualname__, None) is kind


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    if isinstance(value, str):
        return not (len(value) > 1 and Path(value).is_absolute())
    return value is None or isinstance(value, bool | int | float)
