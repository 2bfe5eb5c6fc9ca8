"""What is wrong with a lock as a whole, and with what a model says of its environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from kbuild.audit.finding import Finding, Unchecked
from kbuild.audit.lockview import LockEntry, LockView
from kbuild.audit.subject import Subject
from kbuild.environment.index.wheel_tags import supported_tags
from kbuild.environment.origins import is_of_channel
from kbuild.environment.requirements import allows
from kbuild.errors import PlatformError
from kbuild.managers.conda_names import pip_name
from kbuild.model.bundle import find_credentials
from kbuild.platform import Platform
from kbuild.progress import at_most
from kbuild.urls.credentials import holds_credentials, without_credentials

_SHOWN = 5
_SUBDIR = re.compile(r"(linux|osx|win|freebsd|emscripten|wasi|zos)-\w+")
# Of conda's platforms, what wheels for them are for (PyPA's "Platform compatibility tags").
_SYSTEMS = {
    "linux-64": re.compile(r"(many|musl)?linux\w*_x86_64"),
    "linux-aarch64": re.compile(r"(many|musl)?linux\w*_aarch64"),
    "osx-": re.compile("macosx_"),
    "win-": re.compile("win"),
}


def find_gaps(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """Packages without what they depend on: it was taken out, or hides in a category that no image has."""
    for subdir in sorted({entry.subdir for entry in lock.entries}):
        entries = [entry for entry in lock.entries if entry.subdir == subdir]
        there = names_there(entries, subject)
        lacking: dict[str, LockEntry] = {}
        for entry in entries:
            for name in entry.dependencies:
                if not name.startswith("__") and canonicalize_name(name) not in there:
                    lacking.setdefault(name, entry)
        for name, entry in lacking.items():
            evidence = f"{entry.name} {entry.version} depends on it, and the lock has none for {subdir}"
            yield make_gap("lock", f"{entry.manager}:{name}", evidence, subject)


def make_gap(check: str, where: str, evidence: str, subject: Subject) -> Finding:
    """The finding that a lock lacks a package; ``evidence`` says who tells it."""
    remedy = f"make the lock again: {subject.remake} --force"
    return Finding(id="lock-gap", check=check, severity="high", where=where, evidence=evidence, remedy=remedy)


def names_there(entries: Iterable[LockEntry], subject: Subject) -> set[str]:
    """What these packages are called by those who ask for them."""
    entries = list(entries)
    brought = {canonicalize_name(pip_name(each.name, subject.names)) for each in entries if each.manager == "conda"}
    return {each.canonical for each in entries} | brought


def find_misfits(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """Wheels in another version than a package beside them allows, as the lock itself says."""
    for subdir in sorted({entry.subdir for entry in lock.entries}):
        wheels = {each.canonical: each for each in lock.entries if each.subdir == subdir and each.manager == "pip"}
        for entry in wheels.values():
            for name, constraint in entry.asks:
                wheel = wheels.get(canonicalize_name(name))
                if wheel is not None and not allows(constraint, wheel.version):
                    yield Finding(
                        id="lock-conflict",
                        check="lock",
                        severity="high",
                        where=wheel.where,
                        version=wheel.version,
                        evidence=f"{wheel.place}: {entry.name} {entry.version} asks for {constraint}",
                        remedy=f"make the lock again: {subject.remake} --force",
                    )


def find_twice(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """Packages of which there are two for one platform: which of them is installed, nobody says. The same one may be
    there once for each category."""
    seen: dict[tuple[str, str, str], LockEntry] = {}
    for entry in lock.entries:
        key = (entry.manager, entry.subdir, entry.canonical)
        first = seen.setdefault(key, entry)
        if (first.version, first.sha256) != (entry.version, entry.sha256):
            yield Finding(
                id="lock-twice",
                check="lock",
                severity="high",
                where=entry.where,
                version=entry.version,
                evidence=f"{entry.place}: the lock has it a second time for {entry.subdir}, as {first.version} before",
                remedy=f"make the lock again: {subject.remake} --force",
            )


def find_in_place_of(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """Wheels of which conda has a package as well, one of Python: the wheel's files come over those of that."""
    for subdir in sorted({entry.subdir for entry in lock.entries}):
        entries = [entry for entry in lock.entries if entry.subdir == subdir]
        # Others of the same name are what a wheel binds to: zstd, graphviz.
        of_python = [each for each in entries if each.manager == "conda" and "python" in each.dependencies]
        brought = {canonicalize_name(pip_name(each.name, subject.names)): each for each in of_python}
        for entry in entries:
            other = brought.get(canonicalize_name(entry.name)) if entry.manager == "pip" else None
            if other is not None:
                yield Finding(
                    id="lock-twice",
                    check="lock",
                    severity="medium",
                    where=entry.where,
                    version=entry.version,
                    evidence=f"{entry.place}: conda's {other.name} {other.version} ({other.place}) is the same package,"
                    f" and the wheel's files come over its own for {subdir}",
                    remedy=f"ask for it of one of them alone, and make the lock again: {subject.remake} --force",
                )


def find_other_python(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """Wheels that are by their file's own words for another interpreter than the lock's."""
    pythons = {entry.subdir: entry.version for entry in lock.entries if entry.where == "conda:python"}
    for entry in lock.entries:
        known = entry.manager == "pip" and entry.subdir in pythons and of_another_kind(entry) is None
        if not known or _takes(pythons[entry.subdir], entry):
            continue
        yield Finding(
            id="lock-other-file",
            check="lock",
            severity="high",
            where=entry.where,
            version=entry.version,
            evidence=f"{entry.place}: python {pythons[entry.subdir]}, the lock's for {entry.subdir}, does not take"
            f" {entry.filename}",
            remedy=f"make the lock again: {subject.remake} --force",
        )


def _takes(python: str, entry: LockEntry) -> bool:
    try:
        platform = Platform.from_conda_subdir(entry.subdir)
        supported = {(tag.interpreter, tag.abi) for tag in supported_tags(python, platform)}
        return any((tag.interpreter, tag.abi) in supported for tag in parse_wheel_filename(entry.filename)[3])
    except (InvalidWheelFilename, InvalidVersion, PlatformError, ValueError):
        return True  # is told of as what it is


def find_unread(lock: LockView) -> Iterator[Unchecked]:
    """What stands in a lock and is none of its format: nothing here reads it, and another tool may."""
    if lock.unread:
        reason = f"it has {at_most(lock.unread, _SHOWN)}, of which conda-lock's format knows nothing"
        remedy = "see who wrote it, and why; make the lock again with kbuild lock --force"
        yield Unchecked(check="lock", where="conda-lock.yml", reason=reason, remedy=remedy)


def find_platforms(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """Platforms that the lock is to be for and has no packages of."""
    having = {entry.subdir for entry in lock.entries}
    for platform in dict.fromkeys(each for each in lock.platforms if each not in having):
        yield Finding(
            id="lock-platform",
            check="lock",
            severity="medium",
            where=f"platform {platform}",
            evidence="the lock says that it is for it, and has no packages of it",
            remedy=f"make the lock again: {subject.remake} --force",
        )


def find_unvouched(lock: LockView, subject: Subject, environ: Mapping[str, str]) -> Iterator[Unchecked]:
    """Packages of channels that the lock alone names, where the model names others: whoever edits the one edits the
    other. What the model's run says to be its lock names them truly."""
    if subject.bundle is None or any(known.digest == str(lock.digest) for known in subject.stored_locks):
        return
    named = subject.bundle.facts.conda_env.get("channels")
    own = [str(each) for each in named] if isinstance(named, list) else ["defaults"]
    for entry in lock.unique():
        if entry.manager != "conda" or entry.url is None or is_of_channel(entry.url, own, environ):
            continue
        if is_of_channel(entry.url, lock.channels, environ):
            yield Unchecked(
                check="lock",
                where=entry.where,
                reason=f"it comes from {without_credentials(entry.url)}, a channel that the lock alone names",
                remedy="name the channel in kbuild.yml's audit: allowed-channels, if you know it",
            )


def find_channel_credentials(lock: LockView, subject: Subject) -> Iterator[Finding]:
    """Credentials in the urls of its channels."""
    for channel in filter(holds_credentials, lock.channels):
        yield Finding(
            id="lock-credentials",
            check="lock",
            severity="high",
            where="conda-lock.yml",
            evidence=f"credentials are written in a channel: {without_credentials(channel)}",
            remedy=f"change them on that server, then make the lock again: {subject.remake} --force",
        )


def find_written_credentials(subject: Subject) -> Iterator[Finding]:
    """Credentials in what a model says of its environment: everybody who may read the model, or its image, has them."""
    for name, line in [] if subject.bundle is None else find_credentials(subject.bundle.root):
        yield Finding(
            id="model-credentials",
            check="lock",
            severity="high",
            where=f"model:{name}",
            evidence=f"credentials are written in it: {line}",
            remedy="change them on that server, and log the model again: kbuild writes names of variables",
        )


def of_another_kind(entry: LockEntry) -> str | None:
    """What of it is of no manager that is known, or by its file's own words of another platform."""
    if entry.manager not in ("conda", "pip"):
        return f"it is of {entry.manager:.40}, neither of conda nor of pip"
    if entry.manager == "conda":
        if entry.url and not entry.filename.endswith((".conda", ".tar.bz2")):
            return f"it is of conda, and its file is none of conda's: {entry.filename:.100}"
        folder = (entry.url or "").split("?")[0].rsplit("/", 2)[:-1][-1:]
        other = [each for each in folder if _SUBDIR.fullmatch(each) and each not in (entry.subdir, "noarch")]
        return f"it is locked for {entry.subdir}, and its file lies in {other[0]}" if other else None
    try:
        tags = {tag.platform for tag in parse_wheel_filename(entry.filename)[3]}
    except InvalidWheelFilename:
        return None
    system = next((each for name, each in _SYSTEMS.items() if entry.subdir.startswith(name)), None)
    if system is None or any(each == "any" or system.match(each) for each in tags):
        return None
    return f"it is locked for {entry.subdir}, and its file is for {at_most(sorted(tags), 2)}"
