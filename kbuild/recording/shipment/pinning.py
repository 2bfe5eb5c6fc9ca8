"""The environment written into a model: conda.yaml with exact direct requirements, and constraints for all the rest.

Formats: conda's environment.yml, and pip's requirements and constraints files, as MLflow stores them in a model.
"""

from __future__ import annotations

import difflib
import importlib.metadata as metadata
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from kbuild.errors import RecordingError
from kbuild.recording.shipment.closure import Closure, find_closure
from kbuild.recording.shipment.given import ENVIRONMENT_KWARGS, MLFLOW_NAMES, GivenEnvironment, name_of, read_conda_env
from kbuild.requirement_lines import (
    INSTEAD,
    RESPELL,
    TWO_EQUALS,
    find_problem,
    logical_lines,
    read_requirement_line,
)
from kbuild.urls.credentials import hide_in_text, without_credentials

_FRAME = {"name": "kbuild-model", "channels": ["conda-forge"]}
_OPTION_FILES = {"-r": "-r", "--requirement": "-r", "-c": "-c", "--constraint": "-c"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedEnvironment:
    """``conda_env`` as a dict whose pip part names the constraints file, and the closure the constraints came from.

    ``fixed`` where the user listed all of it, so that nothing may be added.
    """

    conda_env: dict[str, Any]
    closure: Closure
    fixed: bool = False


def make_environment(
    requirements: Iterable[Requirement],
    log_model_kwargs: Mapping[str, Any],
    folder: Path,
    *,
    travelling: Iterable[str] = (),
) -> PinnedEnvironment:
    """Pin what the model needs, or what the user says it needs, to the versions that are installed.

    Of ``log_model_kwargs``, ``conda_env`` or ``pip_requirements`` replace ``requirements``,
    ``extra_pip_requirements`` are added to them. A line that names a distribution of ``travelling``, whose code goes
    along with the model, stands for that code and thus for ``requirements``. The constraints file is written into
    ``folder``. Raises RecordingError for unreadable requirements, and for packages that no index can bring.
    """
    given = find_given(log_model_kwargs)
    traced = [str(requirement) for requirement in requirements]
    fixed = given in ("conda_env", "pip_requirements")
    environment = GivenEnvironment(frame=_FRAME, conda=[f"python={platform.python_version()}", "pip"], pip=traced)
    if given == "conda_env":
        environment = read_conda_env(log_model_kwargs[given])
    if given is not None:
        lines = list(_read_lines(environment.pip if given == "conda_env" else log_model_kwargs[given]))
        lines = [line for line in lines if _names([line]) != {"kbuild"}]  # its part goes along with every model
        mine = set(map(canonicalize_name, travelling))
        others = [line for line in lines if not _names([line]) & mine]
        named = len(others) < len(lines) or any(name_of(each) in mine for each in environment.conda)
        if named or given == "extra_pip_requirements":
            fixed = False
            replaced = _names(others) | set(environment.brought)
            others = [line for line in traced if not _names([line]) & replaced] + others
        environment = replace(
            environment, conda=[each for each in environment.conda if name_of(each) not in mine], pip=others
        )
    lines = environment.pip
    if not _names(lines) & MLFLOW_NAMES:
        from mlflow.version import VERSION

        lines = [f"mlflow=={VERSION}", *lines]  # as MLflow does
    lines = [hide_in_text(line) for line in lines]  # whoever gets the model reads what is written into it
    _check_lines(lines)
    parsed = _parse(lines)
    closure = find_closure([*parsed, *map(Requirement, environment.brought)])
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
    kept = _leave_to_user(closure.make_constraints(), parsed, lines, environment.brought)
    constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
    dependencies = [*environment.conda, {"pip": [*lines, f"-c {constraints}"]}]
    return PinnedEnvironment(
        conda_env={**environment.frame, "dependencies": dependencies}, closure=closure, fixed=fixed
    )


def find_given(log_model_kwargs: Mapping[str, Any]) -> str | None:
    """Which of the arguments that say what the environment is was given; raises RecordingError for several."""
    given = [name for name in ENVIRONMENT_KWARGS if log_model_kwargs.get(name)]
    if len(given) > 1:
        raise RecordingError(
            f"log_model_kwargs has {' and '.join(given)}; give one of them",
            hint="the first two replace what the model is seen to need, extra_pip_requirements adds to it",
        )
    return given[0] if given else None


def find_others(log_model_kwargs: Mapping[str, Any], *, travelling: Iterable[str] = ()) -> list[str]:
    """What the user asks for that is not what trains, each with a reason. Raises as ``make_environment`` does."""
    found = []
    for each, installed in _find_asked(log_model_kwargs, travelling):
        if installed is not None and not each.specifier.contains(installed, prereleases=True):
            found.append(f"{each} is asked for, and training has {each.name} {installed}")
    return found


def find_absent(log_model_kwargs: Mapping[str, Any], *, travelling: Iterable[str] = ()) -> list[str]:
    """What the user asks for that is not installed here, each in a line for the user. Raises as above."""
    absent = [each for each, installed in _find_asked(log_model_kwargs, travelling) if installed is None]
    known = {each.name for each in metadata.distributions() if each.name} if absent else set()
    told = []
    for each in absent:
        close = difflib.get_close_matches(each.name, sorted(known), n=1, cutoff=0.8)
        pinned = any(part.operator in ("==", "===") for part in each.specifier)
        told.append(
            f"The requirements name {each.name!r}, which is not installed here: "
            f"{'' if pinned else 'no version of it is pinned, and '}the lock is the first to see whether an index has "
            f"it{f'; did you mean {close[0]!r}?' if close else '.'}"
        )
    return told


def _find_asked(
    log_model_kwargs: Mapping[str, Any], travelling: Iterable[str]
) -> Iterator[tuple[Requirement, str | None]]:
    """The user's own requirements, each with the version that is installed."""
    passed_over = {"kbuild", *map(canonicalize_name, travelling)}
    given = find_given(log_model_kwargs)
    if given is None:
        return
    source, brought = log_model_kwargs[given], dict[str, SpecifierSet | None]()
    if given == "conda_env":
        environment = read_conda_env(source)
        source, brought = environment.pip, environment.brought
    asked = {
        each.name: each for each in _parse(list(_read_lines(source))) if each.marker is None or each.marker.evaluate()
    }
    asked |= {name: Requirement(f"{name}{version or ''}") for name, version in brought.items() if name not in asked}
    for name, each in asked.items():
        if canonicalize_name(name) in passed_over:
            continue
        try:
            yield each, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield each, None  # nothing that is served may import it


def _check_lines(lines: Sequence[str]) -> None:
    """What no lock can hold is told now, not after the model has been trained and somebody wants its image."""
    problems = [
        f"{without_credentials(repr(line))}: {problem}" for line in lines if (problem := find_problem(line)) is not None
    ]
    if not problems:
        return
    wrong = [line for line in lines if find_problem(line) is not None]
    misspelt = [not line.startswith("-") and read_requirement_line(line).misspelt for line in wrong]
    hint = INSTEAD if not all(misspelt) else RESPELL
    if all(TWO_EQUALS in each for each in problems):
        hint = "write it so, or under dependencies of a conda_env with channels"
    elif any(misspelt) and not all(misspelt):
        hint = f"{RESPELL}; for what no index has: {INSTEAD}"
    raise RecordingError(f"the model's requirements cannot be locked: {'; '.join(problems)}", hint=hint)


def _leave_to_user(
    constraints: list[str],
    requirements: list[Requirement],
    lines: list[str],
    brought: Mapping[str, SpecifierSet | None],
) -> list[str]:
    """Constraints without those that a requirement or constraint of the user excludes."""
    wanted: dict[str, list[Requirement]] = {}
    for each in [*requirements, *_parse(_read_constraint_files(lines))]:
        wanted.setdefault(canonicalize_name(each.name), []).append(each)
    kept = []
    for line in constraints:
        name, _, version = line.partition("==")
        of_conda = brought.get(name, SpecifierSet())
        if of_conda is None or not of_conda.contains(version, prereleases=True):
            continue
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
        raise RecordingError(
            f"requirements cannot be read: {error}", hint=f"relative paths are seen from {Path.cwd()}"
        ) from error


def _names(lines: Iterable[str]) -> set[str]:
    return {canonicalize_name(each.name) for each in _parse(lines)}


def _parse(lines: Iterable[str]) -> list[Requirement]:
    """The lines that are requirements by name; options and urls are the user's own affair."""
    read = [read_requirement_line(line).requirement for line in lines if not line.startswith("-")]
    return [each for each in read if each is not None]
