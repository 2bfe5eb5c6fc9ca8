"""Drift: what trained the model, what the lock pins and what lies in the image, package by package."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from kbuild.audit.checks.identity import distribution_of
from kbuild.audit.finding import CheckResult, Finding, Severity, Unchecked
from kbuild.audit.image_facts import Distribution, ImageFacts
from kbuild.audit.lockview import LockEntry, LockView
from kbuild.audit.planned import Planned
from kbuild.audit.subject import Subject, Trained
from kbuild.audit.surprises import is_startup
from kbuild.managers.conda_names import Names
from kbuild.progress import at_most

_SHOWN = 3


class DriftCheck:
    """A ``Check``; compares whichever two of training, lock and image are there."""

    id = "drift"

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        looked_at = 0
        if subject.lock is not None and subject.trained is not None:
            looked_at += len(subject.lock.unique())
            findings += _lock_against_training(subject.lock, subject.trained, subject.remake, subject.names)
            if not subject.trained.whole:
                unchecked.append(
                    Unchecked(
                        check=self.id,
                        where="model",
                        reason="the model does not record the versions of everything that trained it",
                        remedy="log it with kbuild's hook, which writes constraints.txt",
                    )
                )
        if subject.lock is not None:
            findings += _other_lock(subject, subject.lock)
        if subject.image is not None:
            looked_at += len(subject.image.distributions) + len(subject.image.conda)
            # Whose every layer is compared with the plan's is told where it differs, once, by that comparison.
            planned = subject.planned
            compared = planned is not None and (planned.whole or planned.other_platform is not None)
            findings += () if compared else _image_by_itself(subject.image)
            findings += () if compared else _digests(subject, subject.image)
            findings += () if compared or planned is None else _base(subject.image, planned)
            if subject.lock is not None and not compared:
                findings += _image_against_lock(subject.image, subject.lock)
            if subject.trained is not None:
                findings += _interpreter(subject.image.python, subject.trained, "the image", _REBUILD)
        return CheckResult(check=self.id, findings=tuple(findings), unchecked=tuple(unchecked), looked_at=looked_at)


_REBUILD = "build the image again from the lock: kbuild image --no-cache"


def _lock_against_training(lock: LockView, trained: Trained, remake: str, names: Names) -> Iterator[Finding]:
    again = f"lock it under the training versions again: {remake} --force"
    python = next((entry.version for entry in lock.entries if entry.name == "python"), None)
    yield from _interpreter(python, trained, "the lock", again)
    locked = {name for entry in lock.entries if (name := distribution_of(entry, names)) is not None}
    wheels = {entry.canonical for entry in lock.entries if entry.manager == "pip"}
    for entry in lock.unique():
        if entry.manager == "conda" and distribution_of(entry, names) in wheels:
            continue  # what it brings makes way for the wheel, as in training
        name = distribution_of(entry, names)
        version = None if name is None else trained.versions.get(name)
        if version is not None and not _is_same(version, entry.version):
            yield _finding(
                "drift-trained", "high", entry.where, f"trained with {version}, locked at {entry.version}", again, entry
            )
        elif version is None and trained.whole and entry.manager == "pip":
            evidence = f"{entry.version} is locked, but training did without it"
            yield _finding("drift-not-trained", "low", entry.where, evidence, again, entry)
    for name in sorted(trained.direct - locked):
        yield _finding("drift-not-locked", "high", f"pip:{name}", "the model asks for it, the lock lacks it", again)


def _other_lock(subject: Subject, lock: LockView) -> Iterator[Finding]:
    for known in subject.built_from:
        if not lock.is_named(known.digest):
            evidence = f"{known.place} was built from the lock {known.digest}, this one has other packages"
            yield _finding("drift-lock", "high", "conda-lock.yml", evidence, _REBUILD)


def _image_against_lock(image: ImageFacts, lock: LockView) -> Iterator[Finding]:
    # A slim image says itself what it is without.
    here = [entry for entry in lock.entries if entry.subdir == image.subdir and entry.canonical not in image.left_out]
    conda = {record.name: record for record in image.conda}
    # What a conda package brought is compared as conda package.
    from_conda = {file for record in image.conda for file in record.files if file.endswith(".dist-info/METADATA")}
    installed = {
        each.name: each for each in image.distributions if not any(each.path.endswith(_folder(f)) for f in from_conda)
    }
    for entry in (entry for entry in here if entry.manager == "pip"):
        distribution = installed.pop(entry.canonical, None)
        if distribution is None:
            yield _finding("drift-missing", "high", entry.where, "it is locked, but not in the image", _REBUILD, entry)
        elif not _is_same(distribution.version, entry.version):
            evidence = f"locked at {entry.version}, the image has {distribution.version}"
            yield _finding("drift-image", "high", entry.where, evidence, _REBUILD, entry)
    for entry in (entry for entry in here if entry.manager == "conda"):
        record = conda.pop(entry.name, None)
        if record is None:
            yield _finding("drift-missing", "high", entry.where, "it is locked, but not in the image", _REBUILD, entry)
        elif record.version != entry.version or record.sha256 not in (None, entry.sha256):
            evidence = f"locked at {entry.version} ({entry.sha256}), the image has {record.version} ({record.sha256})"
            yield _finding("drift-image", "high", entry.where, evidence, _REBUILD, entry)
    for name, distribution in sorted(installed.items()):
        evidence = f"the image has {distribution.version}, which is not in the lock"
        yield _finding("drift-not-locked", "high", f"pip:{name}", evidence, _REBUILD)
    for name, record in sorted(conda.items()):
        evidence = f"the image has {record.version}, which is not in the lock"
        yield _finding("drift-not-locked", "high", f"conda:{name}", evidence, _REBUILD)


def _image_by_itself(image: ImageFacts) -> Iterator[Finding]:
    for each in image.distributions:
        if each.changed or each.missing:
            yield _finding("drift-files", "high", f"pip:{each.name}", _files(each), _REBUILD)
    unowned = tuple(path for path in image.unowned if not (image.layers and is_startup(path)))
    if unowned:
        evidence = f"no package brought {at_most(unowned, _SHOWN)}"
        yield _finding("drift-unowned", "medium", "site-packages", evidence, _REBUILD)


def _base(image: ImageFacts, planned: Planned) -> Iterator[Finding]:
    """The base's packages against those that were recorded when the model was first built on it."""
    wanted = planned.base_packages
    if not wanted:
        return
    found = {part: each.version for each in image.base.packages for part in each.parts}
    for name in sorted({*wanted, *found}):
        here, there = found.get(name), wanted.get(name)
        # A rebuild of the binary package alone has a "+b1" that its source has not (Debian's policy, 5.6.12).
        if here is None or there is None or re.sub(r"\+b\d+$", "", there) != re.sub(r"\+b\d+$", "", here):
            evidence = f"recorded for the model is {there or 'none'}, the image has {here or 'none'}"
            yield _finding("drift-base", "high", f"deb:{name}", evidence, _REBUILD)


def _digests(subject: Subject, image: ImageFacts) -> Iterator[Finding]:
    label = image.labels.get("io.kbuild.model.digest")
    if image.model_digest is not None and label is not None and str(image.model_digest) != label:
        evidence = f"the image says its model is {label}, its files are {image.model_digest}"
        yield _finding("drift-model", "critical", "model", evidence, _REBUILD)
    for known in subject.known_models:
        if image.model_digest is not None and known.digest != str(image.model_digest):
            evidence = f"{known.place} is {known.digest}, the model in the image is {image.model_digest}"
            yield _finding("drift-model", "critical", "model", evidence, _REBUILD)


def _interpreter(python: str | None, trained: Trained, place: str, remedy: str) -> Iterator[Finding]:
    if python is not None and python != trained.python:
        evidence = f"trained with Python {trained.python}, {place} has {python}"
        yield _finding("drift-interpreter", "high", "conda:python", evidence, remedy)


def _finding(
    name: str, severity: Severity, where: str, evidence: str, remedy: str, entry: LockEntry | None = None
) -> Finding:
    return Finding(
        id=name,
        check="drift",
        severity=severity,
        where=where,
        version=None if entry is None else entry.version,
        evidence=evidence,
        remedy=remedy,
    )


def _files(distribution: Distribution) -> str:
    parts = [
        f"{len(names)} {what} ({at_most(names, _SHOWN)})"
        for what, names in (("changed", distribution.changed), ("missing", distribution.missing))
        if names
    ]
    return f"{distribution.version} is installed, but of the files of its RECORD are {' and '.join(parts)}"


def _folder(path: str) -> str:
    return "/" + path.removesuffix("/METADATA")


def _is_same(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other
