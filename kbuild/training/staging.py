"""What becomes a file of a model without being one: values, and datasets that give many parts."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import cloudpickle

from kbuild.errors import RecordingError
from kbuild.served.calls import is_parameter
from kbuild.served.inputs import JSON_SUFFIX, PARTS_INDEX, PICKLE_SUFFIX


def make_passing_folder() -> Path:
    # MLflow copies what is in it when the model is logged: nobody who asked without a folder knows where it is.
    folder, owner = tempfile.mkdtemp(prefix="kbuild-inputs-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a process that was forked from it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


def stage_value(name: str, value: Any, target: Path) -> Path:
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


def stage_parts(name: str, parts: Mapping[str, Callable[[], Any]], target: Path) -> Path:
    """Write what each part loads into a folder of its own file; a model gives its nodes callables again."""
    folder = target / _safe(name)
    folder.mkdir(parents=True)
    index = {}
    for number, (key, load) in enumerate(parts.items()):
        index[key] = stage_value(str(number), load(), folder).name
    (folder / PARTS_INDEX).write_text(json.dumps(index, ensure_ascii=False, indent=1), encoding="utf-8")
    return folder.resolve()


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


def rename_doubles(found: Mapping[str, Path], target: Path) -> dict[str, Path]:
    """MLflow keeps an artifact under its last name only, so equal last names are told apart by a copy.

    Names that a url writes otherwise are copied too: MLflow loses files named ``a%25b`` or ``a#b``.
    """
    seen: set[str] = set()
    renamed = {}
    for name, path in found.items():
        plain = _safe(path.name)
        if path.name in seen or path.name != plain:
            first = [plain] if path.name != plain else []
            names = chain(first, (f"{number}-{_safe(name)}{path.suffix}" for number in count(len(seen))))
            copied = target / next(each for each in names if each not in seen and not (target / each).exists())
            if path.is_dir():
                shutil.copytree(path, copied)
            else:
                shutil.copyfile(path, copied)
            path = copied.resolve()
        seen.add(path.name)
        renamed[name] = path
    return renamed
