"""The parameters that a pipeline's nodes take, as MLflow keeps parameters: a name and a text each."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any

from kbuild.digest import digest_chunks
from kbuild.errors import RecordingError
from kbuild.project.tracking_settings import ParameterSettings
from kbuild.served.calls import is_parameter
from kbuild.training.described import find_dataset
from kbuild.urls.secret_names import hide_secrets

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

_PREFIX = "params:"
# What MLflow allows in a name (mlflow.utils.validation), and how long names and values may be.
_NOT_ALLOWED = re.compile(r"[^\w. /:-]")
_MAX_NAME = 250
MAX_VALUE = 6000
MAX_TAG = 8000
_SHORTENED = "…"


@dataclass(kw_only=True, slots=True)
class Parameters:
    """What is to be logged: ``values`` as parameters, ``tags`` what is too long for that; ``notes`` are for people."""

    values: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collect_parameters(pipeline: Pipeline, catalog: Any, settings: ParameterSettings) -> Parameters:
    """The parameters of all nodes of a pipeline, secrets blanked out, since whoever sees the run may not see those.

    Raises RecordingError for one too long where that is to fail.
    """
    found = Parameters()
    too_long = []
    for name, value in _find_all(pipeline, catalog, settings):
        text, key = str(value), make_name(name)
        known = found.values.get(key, found.tags.get(key))
        if known is not None:
            if known != text:
                found.notes.append(f"The parameter {name!r} is logged once, though it has two values")
        elif len(text) <= MAX_VALUE:
            found.values[key] = text
        elif settings.long_values == "fail":
            too_long.append(f"{name!r} ({len(text)} characters)")
        elif settings.long_values == "truncate":
            found.values[key] = shorten(text, MAX_VALUE)
            found.notes.append(f"The parameter {name!r} has {len(text)} characters: MLflow keeps the first {MAX_VALUE}")
        else:
            found.tags[key] = shorten(text, MAX_TAG)
            kept = f", its first {MAX_TAG} characters" if len(text) > MAX_TAG else ""
            found.notes.append(f"The parameter {name!r} has {len(text)} characters: it is a tag of the run{kept}")
    if too_long:
        raise RecordingError(
            f"parameters are too long for MLflow, which takes {MAX_VALUE} characters: {', '.join(too_long)}",
            hint="set tracking.params.long_params_strategy to truncate or tag in kbuild.yml",
        )
    return found


def make_name(name: str) -> str:
    """The name under which MLflow keeps something of this name: mostly the same."""
    plain = _NOT_ALLOWED.sub("_", name)
    if posixpath.normpath(plain) != plain or plain.startswith(("..", "/")) or plain == ".":
        # Stores may take slashes for folders.
        plain = plain.replace("/", "_").replace("..", "__") if plain.strip(".") else "_" * len(plain) or "_"
    if len(plain) <= _MAX_NAME:
        return plain
    # Two long names must not become one.
    return f"{plain[: _MAX_NAME - 9]}-{digest_chunks([name.encode()]).hex[:8]}"


def shorten(text: str, room: int) -> str:
    """The beginning of a text, with a sign that it goes on where it does."""
    return text if len(text) <= room else text[: room - len(_SHORTENED)] + _SHORTENED


def _find_all(pipeline: Pipeline, catalog: Any, settings: ParameterSettings) -> Iterator[tuple[str, Any]]:
    for name in sorted({each for node in pipeline.nodes for each in node.inputs if is_parameter(each)}):
        dataset = find_dataset(name, catalog)
        # One that is missing is Kedro's to tell.
        if dataset is None or not dataset.exists():
            continue
        plain = name.removeprefix(_PREFIX)
        yield from _flatten(plain, hide_secrets(plain, _plain(dataset.load())), settings)


def _flatten(name: str, value: Any, settings: ParameterSettings, *, deep: bool = False) -> Iterator[tuple[str, Any]]:
    value = _plain(value)
    if settings.flatten and (settings.recursive or not deep) and isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flatten(f"{name}{settings.separator}{key}", each, settings, deep=True)
    else:
        yield name, value


def _plain(value: Any) -> Any:
    """What Kedro made of typed parameters, as the mapping it was written as."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    dump = getattr(value, "model_dump", None)  # pydantic's
    return dump() if callable(dump) and not isinstance(value, type) else value
