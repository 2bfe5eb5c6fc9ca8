"""Which locked packages a question means: a requirement such as ``package<2``, or an advisory by its id.

Only what locks name is asked for: Python distributions, the interpreter, and conda packages that are known by another
name in advisories (``checks.identity``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kbuild.audit.checks.identity import identify
from kbuild.audit.lockview import LockEntry
from kbuild.audit.sources.osv import PYPI, Undecidable, is_affected, names_package
from kbuild.audit.subject import Subject
from kbuild.errors import ConfigurationError
from kbuild.managers.conda_names import Names, pip_name

# Of these locks name packages.
_LOCKED = (PYPI, "Bitnami", "GIT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Affected:
    """The packages of one lock that are meant, as ``pip:jinja2 2.4.1``, and those of which nobody can say."""

    packages: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


class Question:
    """What ``--affected-by`` asks; each package and version is judged once."""

    def __init__(
        self,
        *,
        requirement: Requirement | None = None,
        records: Sequence[Mapping[str, Any]] = (),
        names: Names = (),
    ) -> None:
        """Raises ConfigurationError for advisories of packages that no lock names."""
        self._requirement, self._records = requirement, records
        self._nobody = Subject(reference="", kind="lock", names=names)
        self._known: dict[tuple[str, str, str], bool | None] = {}
        self.met = False
        """Whether any lock named a package that is asked for, in whatever version."""
        stated = [each.get("package") or {} for record in records for each in record.get("affected") or ()]
        ecosystems = {str(each["ecosystem"]).partition(":")[0] for each in stated if each.get("ecosystem")}
        if records and not ecosystems & {*_LOCKED}:
            raise ConfigurationError(
                f"{records[0]['id']} is of {', '.join(sorted(ecosystems)) or 'no'} packages, which locks do not name",
                hint="audit the images: kbuild audit IMAGE",
            )

    def ask(self, entries: Iterable[LockEntry]) -> Affected:
        """The packages of a lock that it means."""
        judged = {f"{each.where} {each.version}": self._judge(each) for each in entries}
        return Affected(
            packages=tuple(sorted(name for name, hit in judged.items() if hit)),
            unsure=tuple(sorted(name for name, hit in judged.items() if hit is None)),
        )

    def _judge(self, entry: LockEntry) -> bool | None:
        key = entry.manager, entry.canonical, entry.version
        if key not in self._known:
            self._known[key] = self._is_required(entry) if self._requirement is not None else self._is_affected(entry)
        return self._known[key]

    def _is_required(self, entry: LockEntry) -> bool | None:
        assert self._requirement is not None  # noqa: S101  for the type checker
        own = {entry.canonical}
        if entry.manager == "conda":
            own.add(str(canonicalize_name(pip_name(entry.name, self._nobody.names))))
        if canonicalize_name(self._requirement.name) not in own:
            return False
        self.met = True
        if not self._requirement.specifier:
            return True
        try:
            return self._requirement.specifier.contains(Version(entry.version), prereleases=True)
        except InvalidVersion:
            return None

    def _is_affected(self, entry: LockEntry) -> bool | None:
        package = identify(entry, self._nobody)
        if package is None:
            # A conda package that no table names: it may be what the advisory means under the same name.
            meant = {str((each.get("package") or {}).get("name")) for each in self._affected()}
            return None if entry.canonical in {str(canonicalize_name(name)) for name in meant} else False
        answers: set[bool | None] = set()
        for record in self._records:
            if any(names_package(each, package) for each in record.get("affected") or ()):
                self.met = True
                try:
                    answers.add(is_affected(record, package))
                except Undecidable:
                    answers.add(None)
        return True if True in answers else None if None in answers else False

    def _affected(self) -> Iterable[Mapping[str, Any]]:
        return (each for record in self._records for each in record.get("affected") or ())


def read_requirement(text: str) -> Requirement:
    """A package with or without versions. Raises ConfigurationError."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ConfigurationError(
            f"--affected-by {text!r} is neither an advisory (CVE-…, GHSA-…, PYSEC-…) nor a requirement",
            hint="such as 'jinja2<3'",
        ) from error
    if requirement.url or requirement.marker or requirement.extras:
        raise ConfigurationError(f"--affected-by takes a package and versions, such as 'jinja2<3', not {text!r}")
    return requirement
