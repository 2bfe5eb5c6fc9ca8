"""ModelBundle: a fetched model folder with the facts of its MLmodel file and its digest.

Format of MLmodel, conda.yaml and the input example: https://mlflow.org/docs/latest/ml/model/ ("Storage Format").
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from kbuild.answers import DEFAULT, Tolerance
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.errors import InvalidModel
from kbuild.model.model_files import check_environment, check_kind, name_in, walk
from kbuild.untrusted import BrokenText, parse_json, parse_yaml, plain, read_text, why
from kbuild.urls.credentials import holds_credentials, without_credentials

# MLflow adds this file to a registered model's download: it says where from, not what.
_NOT_CONTENT = frozenset({"registered_model_meta"})


# Where a model's environment is written down, by MLflow and by kbuild.
_LARGEST_TEXT = 4 << 20  # bytes
_PLACES = ("code", "data", "model_data", "model_path", "pickled_model", "python_model")
_WITH_URLS = ("conda.yaml", "constraints.txt", "python_env.yaml", "requirements.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What MLmodel says. ``created`` is in whole seconds since 1970; ``record`` is kbuild's part of the metadata, and
    ``tolerance`` what that says of answers; ``pickled`` are the files that a flavor names as pickles, ``code`` is the
    folder of its own modules, ``stated`` what each flavor says."""

    uri: str | None
    name: str | None
    run_id: str | None
    model_id: str | None
    created: int
    python_version: str
    mlflow_version: str | None
    loader_module: str
    flavors: tuple[str, ...]
    conda_env: Mapping[str, Any]
    constraints: str | None
    signature: Mapping[str, Any] | None
    input_example: str | None
    record: Mapping[str, Any]
    pickled: tuple[str, ...] = ()
    tolerance: Tolerance = DEFAULT
    code: str = "code"
    stated: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """One file of the bundle; ``path`` is relative, with forward slashes; ``size`` in bytes."""

    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelBundle:
    """A model folder on disk. ``digest`` depends on names and bytes of its files, not on where they lie."""

    root: Path
    files: tuple[ModelFile, ...]
    facts: ModelFacts

    @property
    def digest(self) -> Digest:
        """The model digest: over the sorted list of (path, sha256)."""
        return digest_json([[file.path, str(file.digest)] for file in self.files])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read_bundle(root: Path) -> ModelBundle:
    """Read a model folder; raises InvalidModel for one that MLflow's pyfunc could not load."""
    facts = _read_facts(root)
    for name in _WITH_URLS:
        read_model_text(root, name)
    check_environment(root, facts.record)
    files = []
    for path in sorted(walk(root), key=os.fsencode):
        relative = name_in(root, path)
        check_kind(root, path, relative)
        if path.is_file() and relative not in _NOT_CONTENT and "__pycache__" not in path.parts:
            files.append(ModelFile(path=relative, size=path.stat().st_size, digest=digest_file(path)))
    return ModelBundle(root=root, files=tuple(sorted(files, key=lambda file: file.path)), facts=facts)


def read_model_text(root: Path, name: str) -> str | None:
    """A text of the model that somebody reads, None where it has none; raises InvalidModel."""
    try:
        return read_text(root / name, largest=_LARGEST_TEXT)
    except FileNotFoundError:
        return None
    except (OSError, BrokenText) as error:
        raise InvalidModel(f"{name} of the model cannot be read: {why(error)}") from error


def find_credentials(root: Path) -> list[tuple[str, str]]:
    """Files of a model, and each line of theirs in which a url holds credentials, without these."""
    found = []
    for name in _WITH_URLS:
        lines = (read_model_text(root, name) or "").splitlines()
        found += [(name, without_credentials(line.strip())[:200]) for line in lines if holds_credentials(line)]
    return found


def _read_facts(root: Path) -> ModelFacts:
    mlmodel = _read_yaml(root, "MLmodel")
    flavors = mlmodel.get("flavors")
    if not isinstance(flavors, dict):
        raise InvalidModel("MLmodel has no flavors")
    for key in flavors:
        if not isinstance(key, str):
            raise InvalidModel(f"a flavor in MLmodel is called {key}, which is not a text")
    pyfunc = flavors.get("python_function")
    if not isinstance(pyfunc, dict):
        raise InvalidModel(
            f"the model has no python_function flavor, only {', '.join(sorted(flavors)) or 'none'}",
            hint="log it with a flavor that MLflow can serve",
        )
    _check_places(flavors)
    conda_env, folder = _read_conda_env(root, pyfunc)
    record = _read_record(mlmodel.get("metadata"))
    try:
        tolerance = Tolerance.from_json(record.get("tolerance"))
    except ValueError as error:
        raise InvalidModel(f"metadata.kbuild.tolerance in MLmodel: {error}") from error
    model_id, run_id = _text(mlmodel.get("model_id")), _text(mlmodel.get("run_id"))
    return ModelFacts(
        uri=f"models:/{model_id}" if model_id else _run_uri(run_id, _text(mlmodel.get("artifact_path"))),
        name=_name(_text(mlmodel.get("artifact_path")), _text(record.get("registered_as") or mlmodel.get("name"))),
        run_id=run_id,
        model_id=model_id,
        created=_created(mlmodel.get("utc_time_created")),
        python_version=_python_version(pyfunc, conda_env),
        mlflow_version=_text(mlmodel.get("mlflow_version")),
        loader_module=str(pyfunc.get("loader_module", "")),
        flavors=tuple(sorted(flavors)),
        conda_env=conda_env,
        constraints=read_model_text(folder, "constraints.txt"),
        signature=_read_signature(mlmodel.get("signature")),
        input_example=_example_path(root, mlmodel.get("saved_input_example_info")),
        record=record,
        pickled=_pickled(flavors),
        tolerance=tolerance,
        code=_text(pyfunc.get("code")) or "code",
        stated=flavors,
    )


def _read_yaml(root: Path, name: str) -> dict[str, Any]:
    try:
        value = parse_yaml(read_text(root / name))
    except FileNotFoundError as error:
        raise InvalidModel(f"the model has no file {name}") from error
    except OSError as error:
        raise InvalidModel(f"{name} of the model cannot be read: {why(error)}") from error
    except BrokenText as error:
        raise InvalidModel(f"{name} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModel(f"{name} is not a mapping")
    _check_texts(name, value, (), set())
    return value


def _check_texts(name: str, value: object, where: tuple[str, ...], seen: set[int]) -> None:
    """Raises InvalidModel for a text that no path can hold: most of them become parts of one, or of a command."""
    if isinstance(value, str):
        if "\0" in value:
            place = plain(".".join(where)) or "a key"
            raise InvalidModel(f"{place:.200} of {name} has a NUL character in it: {plain(value):.200}")
    elif isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for key, each in value.items() if isinstance(value, dict) else [("", each) for each in value]:
            _check_texts(name, key, where, seen)
            _check_texts(name, each, (*where, str(key)) if key != "" else where, seen)


def _read_conda_env(root: Path, pyfunc: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    env = pyfunc.get("env")
    name = env.get("conda") if isinstance(env, dict) else env
    if not isinstance(name, str):
        raise InvalidModel(
            "MLmodel names no conda environment, so nobody knows what the model needs",
            hint="log the model with conda_env or pip_requirements",
        )
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InvalidModel(f"MLmodel names a conda environment outside the model: {name}")
    conda_env = _read_yaml(root, name)
    _check_lists(name, conda_env)
    return conda_env, (root / name).parent


def _check_lists(name: str, conda_env: Mapping[str, Any]) -> None:
    """Raises InvalidModel where a list is something else: what is in it is judged by whoever locks it."""
    for key in ("channels", "dependencies"):
        if not isinstance(conda_env.get(key) or [], list):
            raise InvalidModel(f"{key} of {name} is not a list")
    for entry in conda_env.get("dependencies") or ():
        lines = entry.get("pip") or [] if isinstance(entry, dict) else []
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise InvalidModel(f"pip in dependencies of {name} is not a list of texts")


def _python_version(pyfunc: Mapping[str, Any], conda_env: Mapping[str, Any]) -> str:
    version = pyfunc.get("python_version")
    if isinstance(version, str):
        return version
    for dependency in conda_env.get("dependencies", ()):
        if isinstance(dependency, str) and dependency.replace(" ", "").startswith("python="):
            return dependency.replace(" ", "").removeprefix("python").lstrip("=")
    raise InvalidModel("neither MLmodel nor conda.yaml says which Python version the model was trained with")


def _read_signature(value: object) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    try:
        return {part: parse_json(text) for part, text in value.items() if isinstance(text, str)}
    except BrokenText as error:
        raise InvalidModel(f"the signature in MLmodel is not valid JSON: {error}") from error


def _example_path(root: Path, info: object) -> str | None:
    name = info.get("serving_input_path") if isinstance(info, dict) else None
    return name if isinstance(name, str) and (root / name).is_file() else None


def _read_record(metadata: object) -> dict[str, Any]:
    record = metadata.get("kbuild") if isinstance(metadata, dict) else None
    return record if isinstance(record, dict) else {}


def _check_places(flavors: Mapping[str, Any]) -> None:
    """Raises InvalidModel for a place that a flavor names outside the model: MLflow joins it to the model's folder, and
    with an absolute one reads and imports what lies on the machine."""
    for name, flavor in flavors.items():
        if not isinstance(flavor, dict):
            continue
        named = {key: flavor.get(key) for key in _PLACES}
        artifacts = flavor.get("artifacts")
        for artifact, stated in artifacts.items() if isinstance(artifacts, dict) else ():
            named[f"artifact {artifact}"] = stated.get("path") if isinstance(stated, dict) else None
        for key, place in named.items():
            if isinstance(place, str) and (PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts):
                raise InvalidModel(f"MLmodel names a place outside the model, {key} of {name}: {place:.200}")


def _pickled(flavors: Mapping[str, Any]) -> tuple[str, ...]:
    named = (
        flavor.get(key)
        for flavor in flavors.values()
        if isinstance(flavor, dict)
        for key in ("python_model", "pickled_model")
        if flavor.get(key) != flavor.get("model_code_path")  # a model that is code has no pickle
    )
    return tuple(sorted({name for name in named if isinstance(name, str)}))


def _created(value: object) -> int:
    if value is None:
        return 0
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError as error:
        raise InvalidModel(f"utc_time_created in MLmodel is not a time: {value!r}") from error
    return int(moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp())


def _run_uri(run_id: str | None, artifact_path: str | None) -> str | None:
    # MLflow 3 writes an absolute artifact location here; only a relative one names the model in its run.
    if run_id is None or artifact_path is None or artifact_path.startswith("/"):
        return None
    return None if ":" in artifact_path else f"runs:/{run_id}/{artifact_path}"


def _name(artifact_path: str | None, name: str | None) -> str | None:
    # MLflow 3 writes an absolute artifact location where MLflow 2 wrote the model's name.
    return name or (artifact_path if artifact_path and not re.match(r"/|\w+:", artifact_path) else None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
