"""What an image says of its own base: whether anybody's signature stood for the packages that it was made of."""

from __future__ import annotations

from kbuild.audit.finding import CheckResult, Finding
from kbuild.audit.subject import Subject

_UNSIGNED = "io.kbuild.base.unsigned"


class BaseCheck:
    """A ``Check`` of the image's labels."""

    id = "base"

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        if subject.image is None:
            return CheckResult(check=self.id)
        if _UNSIGNED not in subject.image.labels:
            return CheckResult(check=self.id, looked_at=1)
        finding = Finding(
            id="base-unsigned",
            check=self.id,
            severity="high",
            where="base",
            evidence="its packages were picked from lists whose signature was not checked (--allow-unsigned-base)",
            remedy="install gpgv and the distribution's keyring, remove its base from the run and build it again "
            "without that option, or name another --base",
        )
        return CheckResult(check=self.id, findings=(finding,), looked_at=1)
