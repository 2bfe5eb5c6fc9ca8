"""Requirements as pip reads them: lines of a requirements file, with the files they name.

Format: pip's docs, "Requirements File Format"; PEP 508 through ``packaging.requirements``.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from packaging.requirements import Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from kbuild.platform import Platform
from kbuild.requirement_lines import (
    CHOICES,
    OPTION,
    SHORT,
    WITHOUT_EFFECT,
    find_problem,
    logical_lines,
    read_requirement_line,
)
from kbuild.urls.credentials import without_credentials


@dataclass(kw_only=True, slots=True)
class Requirements:
    """What a set of requirement lines asks for; ``problems`` are the lines that cannot be locked, and why.

    ``hashes`` holds requirements and constraints with the sha256 of the files that may be taken for them, ``choices``
    the options of which releases and files are taken, by pip's names of them.
    """

    requirements: list[Requirement] = field(default_factory=list)
    constraints: list[Requirement] = field(default_factory=list)
    index_url: str | None = None
    extra_index_urls: list[str] = field(default_factory=list)
    no_index: bool = False
    find_links: list[str] = field(default_factory=list)
    hashes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    choices: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_requirements(lines: Iterable[str], *, source: str, files: Mapping[str, str]) -> Requirements:
    """Read requirement lines of ``source``; ``files`` holds the text of every file ``-r`` and ``-c`` may name.

    Paths are relative to the folder of the file that names them, or to the model's. Nothing raises: see ``problems``.
    """
    found = Requirements()
    _read(lines, source, files, found, constraint=False, seen=frozenset())
    return found


def _read(
    lines: Iterable[str],
    source: str,
    files: Mapping[str, str],
    found: Requirements,
    *,
    constraint: bool,
    seen: frozenset[str],
) -> None:
    for line in logical_lines(lines):
        if line.startswith("-"):
            _read_option(line, source, files, found, constraint=constraint, seen=seen)
            continue
        read = read_requirement_line(line)
        if read.requirement is None:
            found.problems.append(f"{without_credentials(repr(line))} in {source}: {read.problem}")
            continue
        (found.constraints if constraint else found.requirements).append(read.requirement)
        if read.hashes:
            found.hashes.append((str(read.requirement), tuple(sorted(read.hashes))))


def _read_option(
    line: str,
    source: str,
    files: Mapping[str, str],
    found: Requirements,
    *,
    constraint: bool,
    seen: frozenset[str],
) -> None:
    match = OPTION.fullmatch(line)
    name = SHORT.get(match["name"], match["name"]) if match else line
    try:
        value = " ".join(shlex.split(match["value"])) if match else ""
    except ValueError as error:
        found.problems.append(f"{without_credentials(repr(line))} in {source}: {error}")
        return
    if name in ("--constraint", "--requirement"):
        path = _find(value, source, files)
        if path is None:
            found.problems.append(f"{without_credentials(repr(line))} in {source}: the model has no file {value}")
        elif path not in seen:
            _read(
                files[path].splitlines(),
                path,
                files,
                found,
                constraint=constraint or name == "--constraint",
                seen=seen | {path},
            )
    elif name == "--index-url" and value:
        found.index_url = value
    elif name == "--extra-index-url" and value:
        found.extra_index_urls.append(value)
    elif name == "--no-index":
        found.no_index = True
    elif name == "--find-links" and find_problem(line) is None:
        found.find_links.append(value)
    elif name in CHOICES and find_problem(line) is None:
        found.choices.append((name.removeprefix("--"), value))
    elif name not in WITHOUT_EFFECT:
        found.problems.append(f"{without_credentials(repr(line))} in {source}: {find_problem(line)}")


def _find(name: str, source: str, files: Mapping[str, str]) -> str | None:
    beside = (PurePosixPath(source).parent / name).as_posix()
    return next((path for path in (beside, PurePosixPath(name).as_posix()) if path in files), None)


def marker_environment(python: str, platform: Platform) -> dict[str, str]:
    """PEP 508 marker values of CPython ``python`` (``3.11.7``) inside an image of ``platform``."""
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": platform.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": platform.os,
        "extra": "",
    }


def applicable(requirements: Iterable[str], python: str, platform: Platform) -> dict[str, Requirement]:
    """The requirements whose markers hold, by normalised name, without markers, one a name: extras and versions of
    several lines for one package are joined."""
    environment = marker_environment(python, platform)
    merged: dict[str, Requirement] = {}
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        requirement.marker = None
        name = canonicalize_name(requirement.name)
        if name in merged:
            merged[name].extras |= requirement.extras
            merged[name].specifier &= requirement.specifier
        else:
            merged[name] = requirement
    return merged


def exact_version(specifier: SpecifierSet) -> Version | None:
    """The version of ``==1.2.3`` (no wildcard), if that is all the specifier says."""
    parts = list(specifier)
    if len(parts) != 1 or parts[0].operator not in ("==", "===") or parts[0].version.endswith(".*"):
        return None
    return Version(parts[0].version)


def local_part(version: str) -> str:
    """``cpu`` of ``1.0+cpu``, as PEP 440 compares it: letters of both cases are one, and the three separators."""
    return version.partition("+")[2].lower().replace("-", ".").replace("_", ".")


class OtherVersion(ValueError):
    """A release asks for another one than is taken."""


class ArbitraryEquality:
    """What releases ask for by ``===``, of those that a solver takes which knows ``==`` alone: that allows local
    versions. ``environment`` are the values of markers."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**environment, "extra": ""}
        self._asked: dict[tuple[str, str], dict[str, str]] = {}
        self._taken: dict[str, str] = {}

    def asks(self, name: str, version: str, requirements: Iterable[str]) -> None:
        """What a release depends on."""
        exact: dict[str, str] = {}
        for text in requirements:
            if "===" in text:
                with contextlib.suppress(ValueError):
                    each = Requirement(text)
                    if each.marker is None or each.marker.evaluate(self._environment):
                        parts = (part for part in each.specifier if part.operator == "===")
                        exact |= {canonicalize_name(each.name): part.version for part in parts}
        if exact:
            self._asked[canonicalize_name(name), version] = exact

    def take(self, name: str, version: str) -> None:
        """Raises OtherVersion where it is a local version of what one that is taken asks for, or asks for another."""
        self._taken[canonicalize_name(name)] = version
        for (owner, release), exact in self._asked.items():
            for each, wanted in exact.items() if self._taken.get(owner) == release else ():
                taken = self._taken.get(each)
                if taken is not None and local_part(taken) != local_part(wanted):
                    raise OtherVersion(f"{owner} {release} asks for {each}==={wanted}, and {each} {taken} is taken")


def allows(constraint: str, version: str) -> bool:
    """Whether a constraint of a lock's ``dependencies`` allows a version; what is neither of PEP 440's is not judged.

    Specifiers as poetry writes them (its docs, "Dependency specification"): alternatives with ``||``, ``*`` for any,
    and a bare version for ``==``.
    """
    try:
        found = Version(version)
        parts = [part.strip() for part in constraint.split("||")]
        return any(part in ("", "*") or _specifiers(part).contains(found, prereleases=True) for part in parts)
    except ValueError:  # InvalidVersion and InvalidSpecifier
        return True


def _specifiers(part: str) -> SpecifierSet:
    return SpecifierSet(f"=={part}" if part[0].isdecimal() else part)


def plain_specifier(specifier: SpecifierSet) -> str:
    """The specifier without ``~=`` and ``===``, which conda-lock's own parser does not know; sorted."""
    plain: list[str] = []
    for part in specifier:
        plain.extend(_plain(part))
    return ",".join(sorted(set(plain)))


def _plain(part: Specifier) -> list[str]:
    if part.operator == "===":
        return [f"=={part.version}"]
    if part.operator == "~=":
        # PEP 440 "Compatible release": ~=2.2.1 is >=2.2.1,==2.2.*
        release = Version(part.version).release[:-1]
        return [f">={part.version}", f"=={'.'.join(map(str, release))}.*"]
    return [str(part)]
