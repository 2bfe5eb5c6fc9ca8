"""EnvironmentSpec: what a model asks for, before anything is resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from kbuild.digest import Digest, digest_json
from kbuild.environment.links import is_local, is_local_channel
from kbuild.environment.match_spec import other_python, read_spec
from kbuild.environment.requirements import read_requirements
from kbuild.errors import EnvironmentSpecError
from kbuild.managers.conda_names import Names
from kbuild.platform import Platform
from kbuild.urls.credentials import LOCAL_CHANNEL, check_variables, hide_credentials, without_credentials

Interpreter = Literal["conda", "captured"]

# The oldest one that what serves a model runs on (pyproject.toml, requires-python).
_OLDEST = "3.11"
_EXACT_PYTHON = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
# conda's own default where an environment file names no channel (conda's docs, "default_channels").
_DEFAULT_CHANNELS = ("defaults",)
_LOCAL = f"${LOCAL_CHANNEL}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentSpec:
    """Unresolved constraints of one model.

    ``conda`` holds conda MatchSpecs without python and pip, ``pip`` PEP 508 requirements, ``constraints`` the
    ``name==version`` pins of the training environment's whole dependency closure; they bind versions but ask for
    nothing. ``channels`` are in order of priority. ``indexes`` are simple-API urls with credentials replaced by
    environment variable references, ``find_links`` urls of pages and folders of links, likewise. ``python`` is the
    exact interpreter version, ``3.11.7``. ``hashes`` holds requirements with the sha256 of the files that may be taken
    for them; those without may be any file. ``names`` are the project's own: conda packages and what they bring.
    ``python_pin`` is the MatchSpec of python where it says more than the version: a build, a channel. ``choices`` are
    pip's options of which releases and files are taken, in their order.
    """

    python: str
    conda: tuple[str, ...]
    pip: tuple[str, ...]
    constraints: tuple[str, ...]
    channels: tuple[str, ...]
    indexes: tuple[str, ...]
    platforms: tuple[Platform, ...]
    interpreter: Interpreter
    hashes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    find_links: tuple[str, ...] = ()
    names: Names = ()
    python_pin: str = ""
    choices: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> Digest:
        """Depends on every field and on nothing else; locks of before there were ``hashes`` stay fresh without them.

        Not on folders of one machine: their packages travel with the lock, which others are to find fresh too.
        """
        fields = asdict(self)
        for name in ("indexes", "find_links"):
            fields[name] = tuple(url for url in fields[name] if not is_local(url))
        fields["channels"] = tuple(_unique(_LOCAL if is_local_channel(url) else url for url in self.channels))
        for name in ("hashes", "find_links", "names", "python_pin", "choices"):
            if not fields[name]:
                del fields[name]
        return digest_json(fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEnvironment:
    """What a model says of its environment.

    ``conda_env`` is its parsed ``conda.yaml``; ``files`` the text of its ``requirements.txt``, ``constraints.txt`` and
    whatever else ``-r`` and ``-c`` lines may name, by path below the model; ``python`` the exact version that trained
    it (``python_env.yaml``, or ``python_version`` of the MLmodel's python_function flavor), used where ``conda.yaml``
    leaves it open.
    """

    conda_env: Mapping[str, Any]
    files: Mapping[str, str]
    python: str | None


def make_spec(
    model: ModelEnvironment,
    *,
    platforms: Sequence[Platform],
    indexes: Sequence[str],
    interpreter: Interpreter,
    channels: Sequence[str] = (),
    find_links: Sequence[str] = (),
    names: Names = (),
) -> EnvironmentSpec:
    """The spec of a model.

    ``indexes`` and ``find_links`` are the user's (``package_indexes``); the model's own ``--index-url`` replaces the
    first, its ``--no-index`` all, its ``--extra-index-url`` and ``--find-links`` come last. ``channels`` overrides
    those of ``conda.yaml``.

    The order of packages does not matter. Raises one EnvironmentSpecError naming everything that cannot be locked, and
    ConfigurationError for a url with a variable that is not its own host's.
    """
    problems: list[str] = []
    specs, pip_lines = _split_dependencies(model.conda_env, problems)
    asked = read_requirements(pip_lines, source="conda.yaml", files=model.files)
    problems.extend(asked.problems)
    python = specs.pop("python", "")
    exact = _exact_python(python, model.python, problems)
    specs.pop("pip", None)  # nothing is installed when the container starts; who needs pip asks for it under pip:
    if problems:
        raise EnvironmentSpecError(
            f"the model's environment cannot be locked: {'; '.join(problems)}",
            hint="name packages of an index with a version, and log the model again",
        )
    if Version(exact).release < Version(_OLDEST).release:
        raise EnvironmentSpecError(
            f"the model asks for Python {exact}, and what serves it runs on Python {_OLDEST} and newer",
            hint=f"train it with Python {_OLDEST} or newer and log it again",
        )
    main = [asked.index_url, *indexes[1:]] if asked.index_url else indexes
    all_indexes = [] if asked.no_index else [*main, *asked.extra_index_urls]
    wanted = [channel for channel in channels or _listed(model.conda_env, "channels") if channel != "nodefaults"]
    hidden = tuple(_unique(hide_credentials(url, "CHANNEL")[0] for url in wanted or _DEFAULT_CHANNELS))
    servers = tuple(_unique(hide_credentials(url, "INDEX")[0] for url in all_indexes))
    links = tuple(_unique(hide_credentials(url, "INDEX")[0] for url in (*find_links, *asked.find_links)))
    for url in (*hidden, *servers, *links):
        check_variables(url)  # conda-lock would fill in any variable there is
    return EnvironmentSpec(
        python=exact,
        conda=tuple(sorted(set(specs.values()))),
        pip=_others(asked.requirements),
        constraints=_others(asked.constraints),
        channels=hidden,
        indexes=servers,
        platforms=tuple(sorted(set(platforms))),
        interpreter=interpreter,
        hashes=tuple(sorted(set(asked.hashes))),
        find_links=links,
        names=names,
        python_pin=_python_pin(python, exact),
        choices=tuple(asked.choices),
    )


def asked_of(model: ModelEnvironment) -> tuple[set[str], list[Requirement]]:
    """The conda packages that a model names, and the requirements, whatever else of it cannot be locked."""
    specs, pip_lines = _split_dependencies(model.conda_env, [])
    return set(specs), read_requirements(pip_lines, source="conda.yaml", files=model.files).requirements


def _split_dependencies(conda_env: Mapping[str, Any], problems: list[str]) -> tuple[dict[str, str], list[str]]:
    """conda MatchSpecs by package name, and the lines of the ``pip:`` list."""
    specs: dict[str, str] = {}
    pip_lines: list[str] = []
    for dependency in _listed(conda_env, "dependencies"):
        if isinstance(dependency, str):
            try:
                if "$" in dependency:
                    raise ValueError("no conda package specification")
                name = read_spec(dependency).name
            except ValueError as error:
                problems.append(f"{without_credentials(repr(dependency))} in conda.yaml: {_one_line(error)}")
            else:
                if name in specs:
                    problems.append(f"{dependency!r} in conda.yaml: {name} is listed twice")
                specs.setdefault(name, dependency.strip())
        elif isinstance(dependency, Mapping) and set(dependency) == {"pip"}:
            pip_lines.extend(str(line) for line in dependency["pip"] or ())
        else:
            problems.append(f"{dependency!r} in conda.yaml: neither a conda package nor a pip: list")
    return specs, pip_lines


def _exact_python(spec: str, trained: str | None, problems: list[str]) -> str:
    asked = read_spec(spec or "python")
    if asked.build is not None and other_python(asked.build):
        problems.append(f"{spec!r} in conda.yaml: only CPython with its global lock serves models")
    if asked.release is not None:
        return asked.release
    if trained is None or not _EXACT_PYTHON.fullmatch(trained):
        problems.append(f"{spec or 'no python'!r} in conda.yaml: the exact version of Python is not known")
        return ""
    if not asked.allows(trained):
        problems.append(f"{spec!r} in conda.yaml: the model was trained with Python {trained}")
    return trained


def _python_pin(spec: str, exact: str) -> str:
    channel, apart, _ = spec.rpartition("::")
    build = read_spec(spec or "python").build
    return "" if build is None and not apart else f"{channel}{apart}python =={exact} {build or ''}".rstrip()


def _one_line(error: ValueError) -> str:
    return without_credentials(" ".join(str(error).split()))


def _listed(conda_env: Mapping[str, Any], key: str) -> list[Any]:
    value = conda_env.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise EnvironmentSpecError(f"conda.yaml: {key} is not a list")
    return value


def _by_name(requirement: str) -> tuple[str, str]:
    name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
    return canonicalize_name(name), requirement


def _others(requirements: Iterable[Requirement]) -> tuple[str, ...]:
    """Sorted; without kbuild, which MLflow lists for a model logged by hand: every image has its part of it."""
    kept = {str(each) for each in requirements if canonicalize_name(each.name) != "kbuild"}
    return tuple(sorted(kept, key=_by_name))


def _unique(urls: Any) -> list[str]:
    return list(dict.fromkeys(urls))
