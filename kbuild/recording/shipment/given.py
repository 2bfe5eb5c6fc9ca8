"""``conda_env`` as users write it: conda's environment.yml, or what MLflow writes as python_env.yaml.

The second has ``python`` at its top, ``build_dependencies``, and requirements of pip as ``dependencies``; users of
kedro-mlflow know it from its documentation. Formats: conda's docs, "Creating an environment file manually" and "Package
match specifications"; MLflow's docs, "Managing Dependencies in MLflow Models".
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from kbuild.errors import RecordingError
from kbuild.managers.conda_names import pip_name
from kbuild.recording.shipment.closure import is_by_conda
from kbuild.untrusted import BrokenText, parse_yaml, read_text
from kbuild.urls.credentials import hide_in_text

_SPEC = re.compile(r"(?:[^\s\[]+::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)\s*(?P<rest>[^\[]*)(?P<keys>\[.*\])?")
_VERSION_KEY = re.compile(r"version\s*=\s*(?P<quote>['\"])(?P<version>.*?)(?P=quote)")
_PART = re.compile(r"(?P<relation>==|>=|<=|!=|~=|=|>|<)?\s*(?P<version>[^\s=]+)(?:[\s=]\S+)?")
_OF_PIP = re.compile(r";|===|\[[^=\]]*\]|\s@\s")
_LIST = "conda_env must be a mapping with a list of dependencies, or the path of such a file"
_LIKE = "write {'channels': ['conda-forge'], 'dependencies': ['python=3.11', {'pip': ['mlflow', 'pandas']}]}"
MLFLOW_NAMES = frozenset({"mlflow", "mlflow-skinny", "mlflow-tracing"})
"""What MLflow takes for a requirement of itself; without any it adds ``mlflow==`` its version."""


ENVIRONMENT_KWARGS = ("conda_env", "pip_requirements", "extra_pip_requirements")
"""The arguments of ``log_model`` that say what the environment is, of which one may be given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenEnvironment:
    """``frame`` is the environment without its dependencies; ``conda`` are those of channels, python and pip first,
    as they are written; ``pip`` the lines of requirements. ``brought`` says of ``conda`` by its distributions' names
    which versions it asks for, None where that is nothing that a specifier of pip's can say."""

    frame: dict[str, Any]
    conda: list[str]
    pip: list[str]
    brought: dict[str, SpecifierSet | None] = field(default_factory=dict)


def read_conda_env(source: Any) -> GivenEnvironment:
    """Read ``conda_env``, a mapping or the path of a YAML file; raises RecordingError for what is neither."""
    if isinstance(source, str | Path):
        source = _read_file(Path(source))
    if not isinstance(source, Mapping):
        raise RecordingError(_LIST, hint=_LIKE)
    # Whoever gets the model reads what is written into it; pip's lines are seen to with those of other arguments.
    frame = {key: value for key, value in source.items() if key not in ("dependencies", "python", "build_dependencies")}
    channels = source.get("channels")
    of_pip = not channels and ("python" in source or "build_dependencies" in source)
    listed = source.get("dependencies", [] if of_pip else None)
    if not isinstance(listed, list) or not all(_is_dependency(each) for each in listed):
        raise RecordingError(_LIST, hint=_LIKE)
    python = str(source.get("python") or "").strip()
    conda: list[str] = [f"python{'=' if python[0].isdigit() else ''}{python}"] if python else []
    pip: list[str] = []
    for each in listed:
        if isinstance(each, Mapping):
            pip += map(str, each["pip"] or ())
        elif name_of(each) in ("python", "pip"):
            if name_of(each) not in map(name_of, conda):
                conda.append(each)
        elif of_pip or _OF_PIP.search(each) or (not channels and _is_pips(each)):
            pip.append(each)
        else:
            conda.append(each)
    if of_pip and "pip" not in map(name_of, conda):
        conda.append("pip")
    if not channels and all(name_of(each) in ("python", "pip") for each in conda):
        frame["channels"] = ["conda-forge"]
    brought = {name: version for each in conda for name, version in _read_spec(each) if name not in ("python", "pip")}
    for name in MLFLOW_NAMES & set(brought):
        # MLflow looks for itself among pip's requirements alone, and would pin another version there.
        if not any(name_of(line) in MLFLOW_NAMES for line in pip):
            pip.insert(0, f"{name}{brought[name] or ''}")
    if isinstance(channels, list):
        frame["channels"] = [hide_in_text(str(each), "CHANNEL") for each in channels]
    conda = [hide_in_text(each, "CHANNEL") for each in conda]
    return GivenEnvironment(frame=frame, conda=conda, pip=pip, brought=brought)


def _read_file(path: Path) -> Any:
    try:
        text = read_text(path)
    except (OSError, BrokenText) as error:
        raise RecordingError(
            f"conda_env cannot be read: {error}", hint=f"relative paths are seen from {Path.cwd()}"
        ) from error
    try:
        return parse_yaml(text)
    except BrokenText as error:
        raise RecordingError(f"conda_env is not YAML: {error}") from error


def _is_dependency(each: Any) -> bool:
    return isinstance(each, str) or (
        isinstance(each, Mapping) and set(each) == {"pip"} and isinstance(each["pip"], list | tuple | None)
    )


def name_of(spec: str) -> str:
    """The canonical name that a line of either kind begins with, empty where it begins otherwise."""
    match = _SPEC.match(spec.strip())
    return "" if match is None else canonicalize_name(match["name"])


def _is_pips(line: str) -> bool:
    """Whether a line means a package of an index, where no channel is named: it is installed from one here."""
    try:
        requirement = Requirement(line)
        return not is_by_conda(metadata.distribution(requirement.name))
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False


def _read_spec(text: str) -> Iterator[tuple[str, SpecifierSet | None]]:
    """The distribution of a conda package, and the versions asked for in pip's words."""
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        return  # the lock, which knows all of conda's words, has the last one
    version = match["rest"].strip()
    if match["keys"] and (found := _VERSION_KEY.search(match["keys"])):
        version = found["version"]
    yield canonicalize_name(pip_name(match["name"].lower())), _to_specifier(version)


def version_of(spec: str) -> SpecifierSet | None:
    """Which versions a conda package specification asks for, None where a specifier of pip's cannot say it."""
    return next((version for _, version in _read_spec(spec)), None)


def _to_specifier(version: str) -> SpecifierSet | None:
    parts = []
    for part in version.split(",") if version and version != "*" else ():
        match = _PART.fullmatch(part.strip())
        if match is None:
            return None
        relation, number = match["relation"] or "==", match["version"]
        if relation == "=":
            # conda: =1.2 is 1.2 and all that begins with it, =1.2=build that one alone.
            relation, number = "==", number if "=" in part.strip()[1:] else f"{number.removesuffix('.*')}.*"
        elif relation not in ("==", "!="):
            number = number.removesuffix(".*")
        parts.append(f"{relation}{number}")
    try:
        return SpecifierSet(",".join(parts))
    except InvalidSpecifier:
        return None
