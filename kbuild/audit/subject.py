"""What is audited, as values: nothing here is fetched by a check itself, except what its own service answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from packaging.utils import canonicalize_name

from kbuild.audit.finding import CheckResult
from kbuild.audit.image_facts import ImageFacts
from kbuild.audit.lockview import LockView
from kbuild.audit.planned import Planned
from kbuild.digest import Digest
from kbuild.environment.index.package_indexes import Indexes
from kbuild.managers.conda_names import Names
from kbuild.model.bundle import ModelBundle

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*==\s*(?P<version>[^\s;#*]+)\s*(?:[;#].*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The environment that trained the model.

    ``versions`` by canonical name; ``direct`` are the names that the model asks for itself; ``whole`` tells whether
    ``versions`` covers the dependency closure or only the pins of ``conda.yaml``.
    """

    python: str
    versions: dict[str, str]
    direct: frozenset[str]
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownDigest:
    """A digest that something else was recorded with: ``place`` says where."""

    place: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """``reference`` is what the user typed. What is not part of the audit is None.

    ``stored_locks`` are digests of the lock where it is kept; ``built_from`` those of locks that images say they were
    built from; ``known_models`` digests that the model should have. ``fresh_inputs`` are the input digests a lock of
    this model may record, None where there is no model to ask. ``names`` are the project's own, of conda packages.
    ``own`` are the indexes that the model's lock is made from, the configured ones and its own; none where they are not
    known. ``planned`` is what the image must be; ``parameters`` are the run's.
    """

    reference: str
    kind: Literal["model", "image", "lock"]
    lock: LockView | None = None
    bundle: ModelBundle | None = None
    trained: Trained | None = None
    image: ImageFacts | None = None
    stored_locks: tuple[KnownDigest, ...] = ()
    built_from: tuple[KnownDigest, ...] = ()
    known_models: tuple[KnownDigest, ...] = ()
    fresh_inputs: frozenset[Digest] | None = None
    own: tuple[Indexes, ...] = ()
    names: Names = ()
    planned: Planned | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    remake: str = "kbuild lock"
    """The command that makes the lock again."""


class Check(Protocol):
    """One check. What it cannot look at it returns as Unchecked; it raises nothing for it."""

    id: str

    def run(self, subject: Subject) -> CheckResult:
        """Look at whatever of the subject is there."""


def read_trained(bundle: ModelBundle) -> Trained:
    """The training environment as the model's ``constraints.txt``, ``conda.yaml`` and MLmodel tell it."""
    facts = bundle.facts
    pip_lines = [
        str(line)
        for dependency in facts.conda_env.get("dependencies") or ()
        if isinstance(dependency, dict)
        for line in dependency.get("pip") or ()
    ]
    closure = _pins((facts.constraints or "").splitlines())
    direct = _pins(pip_lines)
    recorded = facts.record.get("python")
    return Trained(
        python=recorded if isinstance(recorded, str) else facts.python_version,
        versions={**direct, **closure},
        direct=frozenset(direct),
        whole=bool(closure),
    )


def _pins(lines: list[str]) -> dict[str, str]:
    matches = (_PIN.fullmatch(re.sub(r"\[.*?\]", "", line.strip())) for line in lines)
    return {canonicalize_name(match["name"]): match["version"] for match in matches if match is not None}
