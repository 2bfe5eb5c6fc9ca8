"""Whether the licences of the packages are those that the policy allows."""

from __future__ import annotations

import email.parser
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.image_facts import stated_licence
from kbuild.audit.licences import LicencePolicy, read_licence
from kbuild.audit.lockview import LockEntry
from kbuild.audit.subject import Subject
from kbuild.digest import digest_file

_REMEDY = (
    "read its licence, and state it in licences.packages of [tool.kbuild.audit], or build the image and audit that"
)


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
        if subject.lock is None:
            reason = "there is no lockfile that names them"
            unchecked.append(Unchecked(check=self.id, where="packages", reason=reason, remedy="audit the model's lock"))
        return CheckResult(
            check=self.id, findings=tuple(findings), unchecked=tuple(dict.fromkeys(unchecked)), looked_at=looked_at
        )

    def _stated(self, subject: Subject) -> Iterator[tuple[str, str, str | None]]:
        """Each package, its version, and the licence that it states."""
        image = subject.image
        within: dict[str, str | None] = (
            {} if image is None else {each.name: each.license for each in image.distributions}
        )
        records: dict[str, str | None] = {}
        for record in () if image is None else image.conda:
            records[canonicalize_name(record.name)] = record.license
        for entry in () if subject.lock is None else subject.lock.unique():
            inside = within if entry.manager == "pip" else records
            yield entry.where, entry.version, inside.get(entry.canonical) or self._downloaded(entry)
        for package in () if image is None else image.base.packages:
            yield package.where, package.version, package.license

    def _downloaded(self, entry: LockEntry) -> str | None:
        """What the locked file itself states, its digest compared."""
        if self._downloads is None or not entry.sha256:
            return None
        path = self._downloads / entry.sha256 / entry.filename
        if not path.is_file() or digest_file(path).hex != entry.sha256:
            return None
        return _of_wheel(path) if entry.manager == "pip" else _of_conda(path)


def _of_wheel(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((each for each in archive.namelist() if each.endswith(".dist-info/METADATA")), None)
            data = b"" if name is None else archive.read(name)
    except zipfile.BadZipFile:
        return None  # an sdist
    return stated_licence(email.parser.BytesParser().parsebytes(data, headersonly=True))


def _of_conda(path: Path) -> str | None:
    from rattler.exceptions import IoError
    from rattler.package import IndexJson

    try:
        stated = IndexJson.from_package_archive(path).license
    except (IoError, ValueError):
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
        remedy="replace it, or allow the licence in licences of [tool.kbuild.audit]",
    )
