"""What a model says of each input of its inference pipeline, and how that input is loaded where it is served.

An input is described by plain values only: no dataset object, credential, path or fsspec argument is kept.
Imports Kedro only for dataset types that need it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import cloudpickle

from kbuild.errors import InvalidModel

# How a value staged by kbuild itself is stored.
JSON_SUFFIX = ".json"
PICKLE_SUFFIX = ".cloudpickle"
# In the folder of an input that is several parts: the file of each by its name.
PARTS_INDEX = "parts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSource:
    """One input: a ``parameter`` or ``object`` staged by kbuild, or the file of a ``dataset`` type.

    ``arguments`` are the dataset's constructor arguments that decide how a file is read.
    """

    kind: str
    type: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> InputSource:
        """Read what ``to_dict`` gave; raises InvalidModel for another kind."""
        if state.get("kind") not in ("parameter", "object", "dataset"):
            raise InvalidModel(f"the model describes an input of unknown kind {state.get('kind')!r}")
        return cls(kind=state["kind"], type=state.get("type"), arguments=dict(state.get("arguments", {})))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the model's state."""
        return asdict(self)

    @property
    def modules(self) -> set[str]:
        """Modules that loading this input imports."""
        if self.kind != "dataset" or self.type is None:
            return set()
        if self.type in _PLAIN_LOADERS:
            backend = self.arguments.get("backend")
            return {str(backend)} if backend else set()
        return {self.type.rpartition(".")[0]}


def load_input(name: str, source: InputSource, location: str) -> Any:
    """The value of an input, from a path or ``file:`` uri of this machine.

    Raises InvalidModel when the file is not there or its type cannot be imported.
    """
    path = to_local_path(location)
    if not path.exists():
        raise InvalidModel(f"the model lacks the file of its input {name!r}: {path.name}")
    # The value of a dataset is staged where its file would give another one.
    if source.kind != "dataset" or path.suffix == PICKLE_SUFFIX:
        return load_staged(path)
    plain = _PLAIN_LOADERS.get(source.type or "")
    if plain is not None:
        return plain(path, source.arguments)
    return _find_type(name, source.type or "")(filepath=str(path), **source.arguments).load()


def load_staged(path: Path) -> Any:
    """A value that kbuild staged, as JSON or cloudpickle by its suffix; of a folder, callables that load its parts."""
    if path.is_dir():
        index = json.loads((path / PARTS_INDEX).read_text(encoding="utf-8"))
        return {name: partial(load_staged, path / file) for name, file in index.items()}
    if path.suffix == JSON_SUFFIX:
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open("rb") as file:
        # A model is code: whoever loads it trusts it, as with every pyfunc model.
        return cloudpickle.load(file)


def to_local_path(location: str) -> Path:
    """A path from a path or ``file:`` uri; one written on Windows is read with its separators."""
    if location.startswith("file:"):
        location = unquote(urlsplit(location).path)
        # file:///C:/folder has the path /C:/folder
        if len(location) > 2 and location[0] == "/" and location[2] == ":":
            location = location[1:]
    path = Path(location)
    if not path.exists() and "\\" in location:
        path = Path(location.replace("\\", "/"))
    return path


def _load_pickle(path: Path, arguments: Mapping[str, Any]) -> Any:
    backend = importlib.import_module(str(arguments.get("backend", "pickle")))
    with path.open("rb") as file:
        return backend.load(file, **arguments.get("load_args", {}))


def _load_json(path: Path, arguments: Mapping[str, Any]) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# These two are how most models are kept, and they need nothing of Kedro to be read.
_PLAIN_LOADERS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "kedro_datasets.json.json_dataset.JSONDataset": _load_json,
    "kedro_datasets.pickle.pickle_dataset.PickleDataset": _load_pickle,
}


def _find_type(name: str, dotted: str) -> Any:
    module, _, attribute = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidModel(f"input {name!r} is read by {dotted}, which cannot be imported: {error}") from error
