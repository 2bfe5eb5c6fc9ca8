"""Whether a lock has all that its packages need, by the packages' own word, and nothing that nobody asks for.

The lock's own edges prove neither: who takes a package out takes the edge to it out, too. Format: PyPA's "Core metadata
specifications" (Requires-Dist), whose markers are judged for the platform that is locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.lock_faults import make_gap, names_there
from kbuild.audit.lockview import LockEntry, LockView
from kbuild.audit.sources.locked_files import read_depends, read_metadata
from kbuild.audit.subject import Subject
from kbuild.environment.locking.wanted import environment_of
from kbuild.environment.requirements import marker_environment
from kbuild.environment.spec import asked_of
from kbuild.errors import EnvironmentSpecError, PlatformError
from kbuild.platform import Platform
from kbuild.progress import at_most

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A lock's packages for one platform, and what the wheels among them ask for, and those of conda depend on by
    their own word, where they are here."""

    subdir: str
    entries: tuple[LockEntry, ...]
    asks: dict[str, tuple[Requirement, ...] | None]
    depends: dict[str, tuple[str, ...]]
    markers: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What the model itself asks for: names of conda packages, and requirements."""

    conda: frozenset[str] = frozenset()
    pip: tuple[Requirement, ...] = ()

    @classmethod
    def by(cls, subject: Subject) -> _Asked:
        try:
            conda, pip = (set(), []) if subject.bundle is None else asked_of(environment_of(subject.bundle))
        except EnvironmentSpecError:
            return cls()  # no lock is made of it, and whether one is fresh cannot be told, which is said
        return cls(conda=frozenset(conda), pip=tuple(pip))

    def roots(self) -> set[tuple[str, str]]:
        """Names with each extra that is asked for; what every environment has among them."""
        asked = {(canonicalize_name(each.name), of) for each in self.pip for of in ("", *each.extras)}
        return asked | {(canonicalize_name(each), "") for each in ("python", "pip", *self.conda)}


@dataclass(kw_only=True, slots=True)
class _Walk:
    """Along what asks for what: by wheels as their markers hold there, by other packages as the lock says.

    ``found`` are the names that are asked for, each with one that asks for it.
    """

    part: _Part
    edges: dict[str, tuple[str, ...]]
    found: dict[str, str] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)

    def go_on(self, roots: Iterable[tuple[str, str]]) -> None:
        """To all that these names with their extras ask for, directly or not."""
        todo = sorted(set(roots) - self.seen)
        self.seen |= {*todo}
        while todo:
            name, extra = todo.pop()
            stated = self.part.asks.get(name)
            if stated is None:
                asked = [(canonicalize_name(each), "") for each in self.edges.get(name, ())]
            else:
                holding = [each for each in stated if _holds(each, self.part.markers | {"extra": extra})]
                asked = [(canonicalize_name(each.name), of) for each in holding for of in ("", *sorted(each.extras))]
            for needed, of in asked:
                self.found.setdefault(needed, name)
                if (needed, of) not in self.seen:
                    self.seen.add((needed, of))
                    todo.append((needed, of))


class ClosureCheck:
    """A ``Check`` of a lock against the metadata of its wheels in ``downloads``, the cache of locked packages."""

    id = "closure"

    def __init__(self, *, downloads: Path | None = None) -> None:
        self._downloads = downloads

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        lock = subject.lock
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        asked = _Asked.by(subject)
        for part in () if lock is None else self._parts(lock):
            walk = _Walk(part=part, edges=_edges(part, subject))
            walk.go_on(asked.roots())
            strays = list(_strays(walk, subject)) if asked != _Asked() else []
            walk.go_on((name, "") for name in part.asks)
            findings += [*_gaps(walk, subject), *strays]
            unchecked += [*_unknown(part, subject), *_of_the_lock_alone(part, asked, subject)]
        looked_at = 0 if lock is None else len(lock.entries)
        return CheckResult(check=self.id, findings=tuple(findings), unchecked=tuple(unchecked), looked_at=looked_at)

    def _parts(self, lock: LockView) -> Iterator[_Part]:
        python = next((each.version for each in lock.entries if each.where == "conda:python"), None)
        for subdir in sorted({entry.subdir for entry in lock.entries}):
            try:
                platform = Platform.from_conda_subdir(subdir)
            except PlatformError:
                continue  # no image is built for it
            entries = tuple(each for each in lock.entries if each.subdir == subdir)
            wheels = [each for each in entries if each.manager == "pip"]
            asks = {each.canonical: self._asks(each) if python else None for each in wheels}
            depends = {each.name: found for each in entries if (found := self._depends(each)) is not None}
            markers = marker_environment(python or "", platform)
            yield _Part(subdir=subdir, entries=entries, asks=asks, depends=depends, markers=markers)

    def _depends(self, entry: LockEntry) -> tuple[str, ...] | None:
        return read_depends(entry, self._downloads) if entry.manager == "conda" else None

    def _asks(self, entry: LockEntry) -> tuple[Requirement, ...] | None:
        metadata = read_metadata(entry, self._downloads)
        try:
            return None if metadata is None else tuple(map(Requirement, metadata.get_all("Requires-Dist") or ()))
        except InvalidRequirement:
            return None


def _edges(part: _Part, subject: Subject) -> dict[str, tuple[str, ...]]:
    edges: dict[str, tuple[str, ...]] = {}
    for entry in part.entries:
        edges |= dict.fromkeys(names_there([entry], subject), entry.dependencies)
    return edges


def _of_the_lock_alone(part: _Part, asked: _Asked, subject: Subject) -> Iterator[Unchecked]:
    """Where conda packages say themselves what they need: what else the lock says of it, if nothing else tells.

    That is no finding: channels mend what packages say of themselves after these were made.
    """
    there = names_there(part.entries, subject)
    edges = _edges(part, subject)
    roots = {*asked.roots(), *((name, "") for name in part.asks)}
    by_lock = _Walk(part=part, edges=edges)
    by_lock.go_on(roots)
    told = {
        name: part.depends[entry.name]
        for entry in part.entries
        if entry.manager == "conda" and entry.name in part.depends
        for name in names_there([entry], subject)
    }
    by_files = _Walk(part=part, edges={**edges, **told})
    by_files.go_on(roots)
    for name in sorted((by_lock.found.keys() & there) - by_files.found.keys() - {each for each, _ in roots}):
        reason = f"the lock says that {by_lock.found[name]} needs it, which the file of that does not say"
        yield _doubt(f"conda:{name}", reason, subject)
    for name in sorted(by_files.found.keys() - by_lock.found.keys() - there):
        reason = f"the file of {by_files.found[name]} says that it needs it, and the lock has neither it nor that edge"
        yield _doubt(f"conda:{name}", reason, subject)


def _doubt(where: str, reason: str, subject: Subject) -> Unchecked:
    remedy = f"make the lock again and see whether it says the same: {subject.remake} --force"
    return Unchecked(check="closure", where=where, reason=reason, remedy=remedy)


def _holds(requirement: Requirement, environment: dict[str, str]) -> bool:
    try:
        return requirement.marker is None or requirement.marker.evaluate(environment)
    except UndefinedEnvironmentName:
        return False


def _gaps(walk: _Walk, subject: Subject) -> Iterator[Finding]:
    """Packages that any wheel of the lock, or the model, asks for and the lock has not."""
    part = walk.part
    there = names_there(part.entries, subject)
    stated = {canonicalize_name(name) for entry in part.entries for name in entry.dependencies}
    for name, by in sorted(walk.found.items()):
        if name not in there and name not in stated:  # what the lock's own edges tell is told by them
            evidence = f"{by} says that it needs it, and the lock has neither it nor that edge for {part.subdir}"
            yield make_gap("closure", f"pip:{name}", evidence, subject)


def _strays(walk: _Walk, subject: Subject) -> Iterator[Finding]:
    """Packages that neither the model nor any package asks for. Of what was trained without a wheel drift tells."""
    reached = {name for name, _ in walk.seen} | walk.found.keys()
    whole = subject.trained is not None and subject.trained.whole
    for entry in walk.part.entries:
        if not reached & names_there([entry], subject) and not (whole and entry.manager == "pip"):
            yield Finding(
                id="lock-extra",
                check="closure",
                severity="medium",
                where=entry.where,
                version=entry.version,
                evidence=f"{entry.place}: neither the model nor any package asks for it",
                remedy=f"make the lock again: {subject.remake} --force",
            )


def _unknown(part: _Part, subject: Subject) -> Iterator[Unchecked]:
    """Where the wheels are not here, what training had says what must be there."""
    lacking = sorted(name for name, asks in part.asks.items() if asks is None)
    trained = subject.trained
    if not lacking or (trained is not None and not trained.whole):
        return  # which drift says
    gone = [] if trained is None else sorted(trained.versions.keys() - names_there(part.entries, subject))
    if trained is None:
        reason = f"whether all is there that {at_most(lacking, _SHOWN)} need is not known: their files are not here"
    elif gone:
        reason = f"training had {at_most(gone, _SHOWN)}, and no file that is here tells whether the lock may lack it"
    else:
        return
    yield Unchecked(
        check="closure",
        where=f"lock for {part.subdir}",
        reason=reason,
        remedy="audit it where an image was built from it: kbuild image brings the files",
    )
