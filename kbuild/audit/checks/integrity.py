"""Lock integrity: every package by url and sha256, from where it may come, and the lock as it was made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Protocol
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from kbuild.audit.checks.of_folders import is_built, judge_folders
from kbuild.audit.checks.releases import Lookup
from kbuild.audit.finding import CheckResult, Finding, Severity, Unchecked
from kbuild.audit.lock_faults import (
    find_channel_credentials,
    find_gaps,
    find_in_place_of,
    find_misfits,
    find_other_python,
    find_platforms,
    find_twice,
    find_unread,
    find_unvouched,
    find_written_credentials,
    of_another_kind,
)
from kbuild.audit.lockview import LockEntry, LockView
from kbuild.audit.policy import Policy
from kbuild.audit.subject import Subject
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.lockfile import LOCAL_URLS, SDIST_MARK
from kbuild.environment.origins import is_below, is_of_channel, is_of_index
from kbuild.errors import ConfigurationError, KbuildError
from kbuild.process.asking import asking_pool
from kbuild.urls.credentials import check_variables, without_credentials

_AT_ONCE = 8
_FOLDER = re.compile(r"(file:(//)?|\.{0,2})/(?!/)")
_SCHEME = re.compile(r"([A-Za-z][\w+.-]*):")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VCS = re.compile(r"(?i)(git|hg|svn|bzr)(\+\w+)?:|.*\.git(@|#|$)")


class IntegrityCheck:
    """A ``Check`` of the lockfile alone and of the digests that were recorded when it was made."""

    id = "lock"

    def __init__(
        self,
        policy: Policy,
        *,
        indexes: tuple[str, ...] = (),
        channels: tuple[str, ...] = (),
        lookup: Lookup | None = None,
    ) -> None:
        """``indexes`` and ``channels`` are those that are configured; ``lookup`` asks the first, None where nobody may.

        Without channels those count that the model names, or the lock itself.
        """
        self._policy, self._indexes, self._channels, self._lookup = policy, indexes, channels, lookup

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        lock = subject.lock
        written = tuple(find_written_credentials(subject))
        if lock is None:
            nothing = Unchecked(
                check=self.id, where="lock", reason="there is no lockfile", remedy=f"make one: {subject.remake}"
            )
            return CheckResult(check=self.id, findings=written, unchecked=(nothing,))
        findings = [finding for entry in lock.entries for finding in self._entry(entry, lock, subject)]
        elsewhere, unknown = self._elsewhere(lock, subject)
        of_folders, not_here = judge_folders(lock, subject, self._policy.allowed_indexes, self._indexes)
        findings += [*elsewhere, *of_folders]
        unknown += [*not_here, *find_unread(lock)]
        if not (self._policy.allowed_channels or self._channels):
            unknown += find_unvouched(lock, subject, os.environ)
        findings += [
            *find_gaps(lock, subject),
            *find_misfits(lock, subject),
            *find_twice(lock, subject),
            *find_in_place_of(lock, subject),
            *find_other_python(lock, subject),
            *find_platforms(lock, subject),
            *find_channel_credentials(lock, subject),
            *_edited(lock, subject),
            *_stale(lock, subject),
            *written,
        ]
        return CheckResult(
            check=self.id, findings=tuple(findings), unchecked=tuple(unknown), looked_at=len(lock.entries)
        )

    def _elsewhere(self, lock: LockView, subject: Subject) -> tuple[list[Finding], list[Unchecked]]:
        """Wheels on other servers than the model's indexes and those that are configured, unless these lead there."""
        indexes = tuple(url for own in subject.own for url in (*own.urls, *own.find_links)) or self._indexes
        if self._policy.allowed_indexes or not indexes:
            return [], []
        strays = [
            each
            for each in lock.entries
            if each.manager == "pip" and each.url is not None and not is_of_index(each.url, indexes)
        ]
        findings, unknown = [], []
        with asking_pool(_AT_ONCE) as pool:
            for entry, told in zip(strays, pool.map(partial(self._is_offered, own=subject.own), strays), strict=True):
                url = without_credentials(entry.url or "")
                if told is None:
                    remedy = "audit it where the package index may be asked, or name its place in allowed-indexes"
                    reason = f"it comes from {url}, and whether the package index leads there was not to be found out"
                    unknown.append(Unchecked(check=self.id, where=entry.where, reason=reason, remedy=remedy))
                elif not told:
                    findings.append(
                        Finding(
                            id="lock-origin",
                            check=self.id,
                            severity="high",
                            where=entry.where,
                            version=entry.version,
                            evidence=f"{entry.place}: it comes from {url}, where no configured package index has it",
                            remedy="lock again from your own index, or name its place in kbuild.yml's audit: "
                            "allowed-indexes",
                        )
                    )
        return findings, unknown

    def _is_offered(self, entry: LockEntry, own: tuple[Indexes, ...]) -> bool | None:
        """Whether an index leads to this very file; None where that is not known."""
        if self._lookup is None:
            return None
        try:
            files = self._lookup(entry.canonical, *own)
        except KbuildError:
            return None
        return any(
            file.url == (entry.url or "").partition("#")[0] and file.sha256 in (None, entry.sha256) for file in files
        )

    def _entry(self, entry: LockEntry, lock: LockView, subject: Subject) -> Iterator[Finding]:
        def finding(name: str, severity: Severity, evidence: str, remedy: str | None = None) -> Finding:
            return Finding(
                id=name,
                check=self.id,
                severity=severity,
                where=entry.where,
                version=entry.version,
                evidence=f"{entry.place}: {evidence}",
                remedy=remedy or f"make the lock again: {subject.remake} --force",
            )

        if entry.sha256 is None or not _SHA256.fullmatch(entry.sha256):
            yield finding("lock-no-sha256", "high", f"its sha256 is {entry.sha256 or 'missing'}")
        if entry.url is None:
            yield finding("lock-no-url", "high", "it has no url")
            return
        # Of a folder nobody asks a server: one that is called t is no token's.
        url = entry.url if _FOLDER.match(entry.url) else without_credentials(entry.url)
        try:
            check_variables(entry.url)
        except ConfigurationError as error:
            yield finding("lock-url", "high", error.message)
        strange = _strange(entry.url)
        if strange is not None:
            yield finding("lock-url", "high", f"{strange}: {url}")
        pinned = f"depend on a released version of {entry.name} from an index, log the model again and lock it"
        if _VCS.match(entry.url):
            yield finding("lock-vcs", "high", f"it comes from version control: {url}", pinned)
        elif is_built(entry):
            sdist = entry.url.partition(SDIST_MARK)[2] or "not recorded"
            yield finding(
                "lock-built",
                "medium",
                f"its wheel was built here from its source distribution (sha256 {sdist}), by code that this"
                f" distribution brings: {entry.filename}, sha256 {entry.sha256}",
                f"choose a version of {entry.name} that has a wheel, or publish this one on your index and lock again",
            )
        elif entry.url.startswith(("file:", "/", "./", "../")):
            yield finding("lock-path", "high", f"it comes from a folder of one machine: {url}", pinned)
        else:
            yield from self._origin(entry, lock, url, finding)
        named = _named_by(entry)
        if named is not None and named != (entry.canonical, entry.version):
            said = f"{entry.name} {entry.version}"
            yield finding("lock-other-file", "high", f"it says {said}, but its file is {entry.filename}")
        strange = of_another_kind(entry)
        if strange is not None:
            yield finding("lock-other-file", "high", strange)
        if url != entry.url:
            yield finding("lock-credentials", "high", f"credentials are written in its url: {url}")
        if entry.manager == "pip" and not entry.filename.endswith(".whl") and not _VCS.match(entry.url):
            yield finding(
                "lock-sdist",
                "medium",
                f"it is a source distribution ({entry.filename}), whose build runs code and is not pinned",
                f"choose a version of {entry.name} that has a wheel, or build one for your index",
            )

    def _origin(self, entry: LockEntry, lock: LockView, url: str, finding: _Maker) -> Iterator[Finding]:
        if entry.url is not None and entry.url.startswith(LOCAL_URLS):
            return  # of wheels judge_folders tells
        if entry.manager == "conda":
            allowed, key = self._policy.allowed_channels or self._channels or lock.channels, "allowed-channels"
            fits = is_of_channel(entry.url or "", allowed, os.environ)
        else:
            allowed, key = self._policy.allowed_indexes, "allowed-indexes"
            fits = any(is_below(entry.url or "", place) for place in allowed)
        if allowed and not fits:
            stated = ", ".join(map(without_credentials, allowed))
            yield finding(
                "lock-origin",
                "high",
                f"it comes from {url}, which is not below {stated}",
                f"add its origin to kbuild.yml's audit: {key} or lock from an allowed one",
            )
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            yield finding("lock-plain-http", "low", f"it is fetched without encryption: {url}", "use https")


def _edited(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """A lock that is not the one that was made: by the digest inside it, and by those recorded elsewhere."""
    evidence = []
    if lock.content_matches is False:
        evidence.append("it is not what the content digest inside it was taken of")
    elif lock.content_matches is None and lock.input_digest is not None:
        evidence.append("it says for which model kbuild made it, and the content digest that kbuild writes is gone")
    evidence += [
        f"{known.place} records {known.digest}, the lock is {lock.digest}"
        for known in subject.stored_locks
        if known.digest != str(lock.digest)
    ]
    if evidence:
        yield Finding(
            id="lock-edited",
            check="lock",
            severity="high",
            where="conda-lock.yml",
            evidence="; ".join(evidence),
            remedy=f"throw the edited lock away and make it again: {subject.remake} --force",
        )


def _stale(lock: LockView, subject: Subject) -> Iterator[Finding]:
    fresh = subject.fresh_inputs
    if fresh is None or lock.input_digest in {str(digest) for digest in fresh}:
        return
    if lock.input_digest is None:
        evidence = "it records no input digest, so nobody knows which model it was made for"
    else:
        evidence = "the model, its channels, the package index or conda-lock's version changed since it was made"
    yield Finding(
        id="lock-stale",
        check="lock",
        severity="medium",
        where="conda-lock.yml",
        evidence=evidence,
        remedy=f"make it again: {subject.remake}",
    )


def _strange(url: str) -> str | None:
    """What of an address leads elsewhere than it seems to, or is fetched by nobody."""
    if ".." in unquote(url.partition("#")[0].partition("?")[0]).replace("\\", "/").split("/")[1:]:
        return "its url climbs out of its own folder"
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1].lower() not in ("https", "http", "file") and _VCS.match(url) is None:
        return f"its url is one of {scheme[1]}, which is no way to fetch a package"
    return None


class _Maker(Protocol):
    def __call__(self, name: str, severity: Severity, evidence: str, remedy: str | None = None) -> Finding:
        """A finding of one entry."""


def _named_by(entry: LockEntry) -> tuple[str, str] | None:
    """Name and version in the file's name, in the entry's spelling where they are equal; None where it tells none.

    Wheels: PyPA's "Binary distribution format"; conda: NAME-VERSION-BUILD.
    """
    if entry.manager == "conda":
        parts = entry.filename.rsplit("-", 2)  # only names have further ones
        name = entry.canonical if parts[0] == entry.name else parts[0]
        return (name, parts[1]) if len(parts) == 3 else None
    try:
        name, version = parse_wheel_filename(entry.filename)[:2]
    except InvalidWheelFilename:
        return None
    try:
        same = version == Version(entry.version)
    except InvalidVersion:
        same = False
    return str(name), entry.version if same else str(version)
