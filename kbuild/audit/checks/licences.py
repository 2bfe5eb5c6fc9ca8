"""Whether the licences of the packages are those that the policy allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name, canonicalize_version

from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.image_facts import ImageFacts, stated_licence
from kbuild.audit.licences import LicencePolicy, read_licence
from kbuild.audit.lockview import LockEntry
from kbuild.audit.sources.locked_files import locked_file, read_metadata
from kbuild.audit.subject import Subject

_REMEDY = "read its licence, and state it in licences.packages of kbuild.yml's audit, or build the image and audit that"
_ACCEPT = "accept it for a time with an ignore of id unchecked in kbuild.yml's audit"


class LicenceCheck:
    """A ``Check`` of the locked packages and of the base's; ``downloads`` is the cache of locked packages."""

    id = "licences"

    def __init__(self, policy: LicencePolicy, *, downloads: Path | None = None) -> None:
        self._policy, self._downloads = policy, downloads

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        read: dict[str, str | None] = dict(self._policy.packages)
        looked_at = 0
        for where, version, stated in self._stated(subject):
            looked_at += 1
            stated = read.get(str(canonicalize_name(where.partition(":")[2])), stated)
            expression = None if stated is None else read_licence(stated)
            judged = None if expression is None else self._policy.judge(expression)
            if judged is False:
                findings.append(_finding(where, version, str(expression)))
            elif judged is None:
                what = "it states no licence that was found here" if stated is None else f"its licence is {stated!r}"
                unchecked.append(Unchecked(check=self.id, where=where, reason=what, remedy=_REMEDY))
        if subject.image is not None and subject.image.base.fault is not None:
            unchecked.append(Unchecked(check=self.id, where="base", reason=subject.image.base.fault, remedy=_ACCEPT))
        if subject.lock is None:
            reason = "there is no lockfile that names them"
            unchecked.append(Unchecked(check=self.id, where="packages", reason=reason, remedy="audit the model's lock"))
        return CheckResult(
            check=self.id, findings=tuple(findings), unchecked=tuple(dict.fromkeys(unchecked)), looked_at=looked_at
        )

    def _stated(self, subject: Subject) -> Iterator[tuple[str, str, str | None]]:
        """Each package, its version, and the licence that it states."""
        image = subject.image
        within = {} if image is None else _within(image)
        for entry in () if subject.lock is None else subject.lock.unique():
            inside = within.pop((entry.manager, entry.canonical, canonicalize_version(entry.version)), None)
            yield entry.where, entry.version, (inside and inside[2]) or self._downloaded(entry)
        yield from within.values()
        for package in () if image is None else image.base.packages:
            yield package.where, package.version, package.license

    def _downloaded(self, entry: LockEntry) -> str | None:
        """What the locked file itself states, its digest compared."""
        if entry.manager == "pip":
            metadata = read_metadata(entry, self._downloads)
            return None if metadata is None else stated_licence(metadata)
        path = locked_file(entry, self._downloads)
        return None if path is None else _of_conda(path)


def _within(image: ImageFacts) -> dict[tuple[str, str, str], tuple[str, str, str | None]]:
    """What ``_stated`` says of the installed packages, by manager, name and version as they are compared."""
    found: dict[tuple[str, str, str], tuple[str, str, str | None]] = {}
    for record in image.conda:
        key = ("conda", canonicalize_name(record.name), canonicalize_version(record.version))
        found[key] = (f"conda:{record.name}", record.version, record.license)
    # What a conda package brought is judged as conda package.
    brought = tuple(
        f"/{file}" for record in image.conda for file in record.files if file.endswith(".dist-info/METADATA")
    )
    for each in image.distributions:
        if not f"/{each.path}/METADATA".endswith(brought):
            key = ("pip", canonicalize_name(each.name), canonicalize_version(each.version))
            found[key] = (f"pip:{each.name}", each.version, each.license)
    return found


def _of_conda(path: Path) -> str | None:
    from rattler.exceptions import ExtractError, IoError
    from rattler.package import IndexJson

    try:
        stated = IndexJson.from_package_archive(path).license
    except (ExtractError, IoError, ValueError):
        return None
    return None if stated is None else str(stated)


def _finding(where: str, version: str, expression: str) -> Finding:
    return Finding(
        id="licence",
        check="licences",
        severity="medium",
        where=where,
        version=version,
        evidence=f"its licence is {expression}, which the policy does not allow",
        remedy="replace it, or allow the licence in licences of kbuild.yml's audit",
    )
