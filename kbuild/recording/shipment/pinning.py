"""The environment written into a model: conda.yaml with exact direct requirements, and constraints for all the rest.

Formats: conda's environment.yml, and pip's requirements and constraints files, as MLflow stores them in a model.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbuild.errors import RecordingError
from kbuild.recording.shipment.closure import Closure, find_closure
from kbuild.requirement_lines import INSTEAD, find_problem, logical_lines, read_requirement_line

_OPTION_FILES = {"-r": "-r", "--requirement": "-r", "-c": "-c", "--constraint": "-c"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEnvironment:
    """``conda_env`` as a dict whose pip part names the constraints file, and the closure the constraints came from."""

    conda_env: dict[str, Any]
    closure: Closure


def make_environment(
    requirements: Iterable[Requirement], log_model_kwargs: Mapping[str, Any], folder: Path
) -> ModelEnvironment:
    """Pin what the model needs, or what the user says it needs, to the versions that are installed.

    Of ``log_model_kwargs``, ``conda_env`` or ``pip_requirements`` replace ``requirements``,
    ``extra_pip_requirements`` are added to them. The constraints file is written into ``folder``.
    Raises RecordingError for unreadable requirements, and for packages that no index can bring.
    """
    given = [name for name in ("conda_env", "pip_requirements", "extra_pip_requirements") if log_model_kwargs.get(name)]
    if len(given) > 1:
        raise RecordingError(f"log_model_kwargs has {' and '.join(given)}; give one of them")
    conda_env = _make_skeleton()
    lines = [str(requirement) for requirement in requirements]
    if given == ["conda_env"]:
        conda_env = _read_conda_env(log_model_kwargs["conda_env"])
        lines = list(_read_lines(_get_pip_part(conda_env)))
    elif given == ["pip_requirements"]:
        lines = list(_read_lines(log_model_kwargs["pip_requirements"]))
    elif given == ["extra_pip_requirements"]:
        extra = list(_read_lines(log_model_kwargs["extra_pip_requirements"]))
        replaced = {each.name for each in _parse(extra)}
        lines = [line for line in lines if not {each.name for each in _parse([line])} & replaced] + extra
    _check_lines(lines)
    parsed = _parse(lines)
    closure = find_closure(parsed)
    if closure.local:
        raise RecordingError(
            f"{', '.join(sorted(closure.local))} was installed from a folder, file or repository, "
            "so no package index can bring it into an image",
            hint="install it by its name from an index, or from a folder of wheels, which kbuild asks too"
            " (export PIP_FIND_LINKS=FOLDER; pip wheel makes one of a project); or name what the model needs in"
            " log_model_kwargs['pip_requirements']",
        )
    constraints = folder / "constraints.txt"
    constraints.parent.mkdir(parents=True, exist_ok=True)
    kept = _leave_to_user(closure.make_constraints(), parsed, lines)
    constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return ModelEnvironment(conda_env=_set_pip_part(conda_env, [*lines, f"-c {constraints}"]), closure=closure)


def _check_lines(lines: Iterable[str]) -> None:
    """What no lock can hold is told now, not after the model has been trained and somebody wants its image."""
    problems = [f"{line!r}: {problem}" for line in lines if (problem := find_problem(line)) is not None]
    if problems:
        raise RecordingError(f"the model's requirements cannot be locked: {'; '.join(problems)}", hint=INSTEAD)


def _make_skeleton() -> dict[str, Any]:
    return {
        "name": "kbuild-model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={platform.python_version()}", "pip"],
    }


def _leave_to_user(constraints: list[str], requirements: list[Requirement], lines: list[str]) -> list[str]:
    """Constraints without those that a requirement or constraint of the user excludes."""
    wanted: dict[str, list[Requirement]] = {}
    for each in [*requirements, *_parse(_read_constraint_files(lines))]:
        wanted.setdefault(canonicalize_name(each.name), []).append(each)
    kept = []
    for line in constraints:
        name, _, version = line.partition("==")
        if all(each.specifier.contains(version, prereleases=True) for each in wanted.get(name, [])):
            kept.append(line)
    return kept


def _read_lines(source: str | Path | Iterable[str], base: Path | None = None) -> Iterator[str]:
    """Requirement lines of a file or a list, included files read, constraints files by absolute path."""
    if isinstance(source, str | Path):
        base = Path(source).resolve().parent
        source = _read_text(Path(source)).splitlines()
    folder = base or Path.cwd()
    for text in logical_lines(source):
        option, _, value = text.partition(" ")
        if _OPTION_FILES.get(option) == "-r":
            yield from _read_lines(folder / value.strip())
        elif _OPTION_FILES.get(option) == "-c":
            yield f"-c {folder / value.strip()}"
        else:
            yield text


def _read_constraint_files(lines: Iterable[str]) -> list[str]:
    return [each for line in lines if line.startswith("-c ") for each in _read_lines(line.removeprefix("-c "))]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordingError(f"requirements cannot be read: {error}") from error


def _parse(lines: Iterable[str]) -> list[Requirement]:
    """The lines that are requirements by name; options and urls are the user's own affair."""
    read = [read_requirement_line(line).requirement for line in lines if not line.startswith("-")]
    return [each for each in read if each is not None]


def _read_conda_env(source: Any) -> dict[str, Any]:
    if isinstance(source, str | Path):
        try:
            source = yaml.safe_load(_read_text(Path(source)))
        except yaml.YAMLError as error:
            raise RecordingError(f"conda_env is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(source, Mapping) or not isinstance(source.get("dependencies"), list):
        raise RecordingError("conda_env must be a mapping with a list of dependencies, or the path of such a file")
    return dict(source)


def _get_pip_part(conda_env: Mapping[str, Any]) -> list[str]:
    return [line for each in conda_env["dependencies"] if isinstance(each, Mapping) for line in each.get("pip", [])]


def _set_pip_part(conda_env: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    others = [each for each in conda_env["dependencies"] if not isinstance(each, Mapping)]
    return {**conda_env, "dependencies": [*others, {"pip": lines}]}
