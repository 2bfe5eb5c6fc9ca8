"""What the package index says today of the locked files: yanked releases, and other bytes than the locked ones.

Format: PyPA's "Simple repository API" (PEP 592 for yanked files).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.lockview import LockEntry
from kbuild.audit.subject import Subject
from kbuild.environment.index.package_indexes import Indexes, IndexFile
from kbuild.errors import KbuildError
from kbuild.process.asking import asking_pool


class Lookup(Protocol):
    """Asks indexes for the files of a package."""

    def __call__(self, name: str, /, *own: Indexes) -> list[IndexFile]:
        """On the model's own indexes, else the user's; raises KbuildError when they do not answer."""


_AT_ONCE = 8


class ReleaseCheck:
    """A ``Check`` of the lock's pip packages against their index, one request a package."""

    id = "releases"

    def __init__(self, lookup: Lookup | None, *, unasked: tuple[str, str] = ("no package index is known", "")) -> None:
        """``lookup`` None: the index is not asked, for the reason and with the remedy that ``unasked`` are."""
        self._lookup, self._unasked = lookup, unasked

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        locked = () if subject.lock is None else subject.lock.entries
        entries = [entry for entry in locked if entry.manager == "pip"]
        if not entries:
            return CheckResult(check=self.id)
        if self._lookup is None:
            reason, remedy = self._unasked
            unchecked = Unchecked(check=self.id, where="packages", reason=reason, remedy=remedy or _REMEDY)
            return CheckResult(check=self.id, unchecked=(unchecked,))
        listed = self._list(sorted({entry.canonical for entry in entries}), subject.own, self._lookup)
        findings: list[Finding] = []
        unlisted: list[Unchecked] = []
        for entry in entries:
            files = listed[entry.canonical]
            if isinstance(files, str):
                unlisted.append(self._unchecked(entry.where, files))
                continue
            for each in self._compare(entry, files):
                if isinstance(each, Finding):
                    findings.append(each)
                else:
                    unlisted.append(each)
        return CheckResult(
            check=self.id, findings=tuple(findings), unchecked=tuple(dict.fromkeys(unlisted)), looked_at=len(entries)
        )

    def _list(self, names: list[str], own: tuple[Indexes, ...], lookup: Lookup) -> dict[str, list[IndexFile] | str]:
        """The files of each package, or why the index did not answer."""

        def ask(name: str) -> list[IndexFile] | str:
            try:
                return lookup(name, *own)
            except KbuildError as error:
                return error.message

        first = ask(names[0])
        if isinstance(first, str):
            # An index that is down for one package is down for all; each try would cost its time-out.
            return dict.fromkeys(names, first)
        with asking_pool(_AT_ONCE) as pool:
            return {names[0]: first, **dict(zip(names[1:], pool.map(ask, names[1:]), strict=True))}

    def _compare(self, entry: LockEntry, files: list[IndexFile]) -> Iterator[Finding | Unchecked]:
        file = next((each for each in files if each.filename == entry.filename), None)
        if file is None:
            yield self._unchecked(entry.where, f"the package index does not list {entry.filename or 'its file'}")
            return
        if file.yanked is not None:
            why = f": {file.yanked}" if file.yanked else ""
            yield Finding(
                id="yanked",
                check=self.id,
                severity="medium",
                where=entry.where,
                version=entry.version,
                evidence=f"{entry.filename} was withdrawn by its authors{why}",
                remedy=f"train with another version of {entry.name} and lock again",
            )
        if file.sha256 is not None and entry.sha256 is not None and file.sha256 != entry.sha256:
            yield Finding(
                id="index-hash",
                check=self.id,
                severity="critical",
                where=entry.where,
                version=entry.version,
                evidence=f"{entry.filename} is locked as sha256 {entry.sha256}, the index has {file.sha256}",
                remedy="do not build from this lock; find out who changed it, and make it again",
            )

    def _unchecked(self, where: str, reason: str) -> Unchecked:
        return Unchecked(check=self.id, where=where, reason=reason, remedy=_REMEDY)


_REMEDY = "see that the index answers (pip config list names it), and audit again"
