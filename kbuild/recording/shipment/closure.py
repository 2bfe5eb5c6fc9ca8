"""Exact versions of everything a model's packages need, as installed where it was trained.

Reads the metadata of installed distributions (the packaging specifications "Core metadata", "Recording installed
projects" and "Direct URL"), and starts from the few that the model imports itself.
"""

from __future__ import annotations

import importlib.metadata as metadata
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cache, lru_cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kbuild.errors import RecordingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Closure:
    """Installed versions by canonical name; ``local`` are those that no index has."""

    versions: dict[str, str]
    local: frozenset[str]

    def make_constraints(self) -> list[str]:
        """``name==version`` for every distribution, sorted."""
        return [f"{name}=={version}" for name, version in sorted(self.versions.items()) if name not in self.local]


def find_closure(requirements: Iterable[Requirement]) -> Closure:
    """Everything that these requirements need, following markers and extras as they hold here.

    A dependency that is not installed is left out: training did without it.
    """
    versions: dict[str, str] = {}
    local: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(each.name), extra) for each in requirements for extra in ("", *sorted(each.extras))]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        _, versions[name], requires = describe(distribution)
        if is_in_no_index(distribution):
            local.add(name)
        for requirement in _choose(name, requires, extra):
            needed = canonicalize_name(requirement.name)
            todo += [(needed, each) for each in ("", *sorted(requirement.extras))]
    return Closure(versions=versions, local=frozenset(local))


def describe(distribution: metadata.Distribution) -> tuple[str, str, tuple[str, ...]]:
    """Name, version and dependencies of a distribution; what was read once is not read again while it stays."""
    text = distribution.read_text("METADATA")
    if text is None:  # an egg, which says it in other files
        return distribution.name, distribution.version, tuple(distribution.requires or ())
    return _read_fields(text.partition("\n\n")[0])


# All of these texts again for each look at a training and for each model: to read them takes a second.
@lru_cache(maxsize=2048)
def _read_fields(text: str) -> tuple[str, str, tuple[str, ...]]:
    """What stands before the description."""
    fields = HeaderParser().parsestr(text)
    return fields["Name"], fields["Version"], tuple(fields.get_all("Requires-Dist", ()))


@lru_cache(maxsize=1024)
def _choose(name: str, requires: tuple[str, ...], extra: str) -> tuple[Requirement, ...]:
    """Those that this extra brings here, or without one the plain ones."""
    needs = []
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise RecordingError(f"{name} is installed with an invalid dependency {text!r}") from error
        # With an extra the plain dependencies are in another entry of the list, so only what it adds is wanted.
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        added = not extra or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}))
        if holds and added:
            needs.append(requirement)
    return tuple(needs)


def is_in_no_index(distribution: metadata.Distribution) -> bool:
    """Whether a distribution came from a folder, a file, a url or version control, where no index can follow.

    conda records the folder its package was built in; that package is in a channel nevertheless.
    """
    text = distribution.read_text("direct_url.json")
    return text is not None and not is_by_conda(distribution) and isinstance(json.loads(text), dict)


def is_by_conda(distribution: metadata.Distribution) -> bool:
    """Whether conda installed a distribution."""
    return (distribution.read_text("INSTALLER") or "").strip() == "conda"


@cache
def find_owners() -> Mapping[str, list[str]]:
    """The canonical names of the distributions that bring each importable top-level name."""
    return {
        top: sorted({canonicalize_name(name) for name in names})
        for top, names in metadata.packages_distributions().items()
        if re.fullmatch(r"\w+", top)
    }


def pin(name: str) -> Requirement:
    """``name==version`` as installed; raises RecordingError when it is not."""
    try:
        return Requirement(f"{name}=={metadata.version(name)}")
    except metadata.PackageNotFoundError as error:
        raise RecordingError(f"{name} is not installed, but the model needs it") from error
