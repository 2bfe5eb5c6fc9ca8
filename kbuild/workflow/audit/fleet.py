"""Which registered models a package or an advisory concerns, by the locks that stand with their runs.

A lock is read each time and known by its digest; only what its bytes say is kept in the cache, for parsing is slow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kbuild.audit.fleet import Affected, Question, read_requirement
from kbuild.audit.lockview import LockEntry, view_lock
from kbuild.audit.sources.advisories import read_advisories
from kbuild.audit.sources.osv_api import OsvApi
from kbuild.audit.sources.services import NotKnown
from kbuild.cache.notes import read_vouched, write_if_allowed
from kbuild.cache.scratch import work_folder
from kbuild.digest import digest_bytes
from kbuild.environment.lockfile import RUN_FOLDER, lock_bytes
from kbuild.environment.locking.kept import LOCKFILE_NAME
from kbuild.errors import ConfigurationError, IndexUnavailable
from kbuild.model.find import RegisteredVersion
from kbuild.refused import known_error
from kbuild.tracking.image_tags import Tag
from kbuild.workflow import Tools
from kbuild.workflow.audit.request import AuditRequest

_ADVISORY = re.compile(r"(?:GHSA-|(?:[A-Z]+-)?CVE-\d|[A-Z]{2,}-\d)[\w:.-]*")
_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetRow:
    """A registered version; ``unknown`` says why its packages are not known, all of them or some."""

    version: RegisteredVersion
    lock: str | None = None
    affected: tuple[str, ...] = ()
    unknown: str | None = None

    @property
    def image(self) -> str | None:
        """The image that was built of it, by digest: the one in a registry where it was pushed."""
        tags = self.version.tags
        return tags.get(Tag.PUSHED) or tags.get(Tag.IMAGE_DIGEST)


def make_question(text: str, request: AuditRequest) -> Question:
    """What ``--affected-by`` asks. Raises ConfigurationError, or IndexUnavailable where the advisory cannot be had."""
    if not _ADVISORY.fullmatch(text):
        return Question(requirement=read_requirement(text), names=request.lock.names)
    policy = request.policy
    if policy.advisories is not None:
        records = read_advisories(policy.advisories).named(text)
        if not records:
            raise ConfigurationError(f"there is no {text} in {policy.advisories}")
        return Question(records=records, names=request.lock.names)
    if request.offline or policy.service in ("pypi", "none"):
        raise ConfigurationError(f"{text} cannot be looked up without OSV", hint="give --advisories FILE")
    found = OsvApi(policy.osv_url).advisory(text)
    if isinstance(found, NotKnown):
        raise IndexUnavailable(f"{text} cannot be had: {found.reason}", hint="or give --advisories FILE")
    return Question(records=found, names=request.lock.names)


def ask_fleet(question: Question, tools: Tools) -> Iterator[FleetRow]:
    """A row for each version that ``--all-registered`` means, in the registry's order. Raises TrackingUnavailable."""
    with tools.phases("fetch") as progress:
        progress.note("the registered models")
        versions = tools.store.fleet()
        with work_folder(tools.cache, "audit-") as workdir, ThreadPoolExecutor(_AT_ONCE) as pool:

            def ask(numbered: tuple[int, RegisteredVersion]) -> FleetRow:
                number, version = numbered
                return _row(version, question, tools, workdir / str(number))

            for done, row in enumerate(pool.map(ask, enumerate(versions)), 1):
                progress.count(done, len(versions), "models")
                yield row


def _row(version: RegisteredVersion, question: Question, tools: Tools, into: Path) -> FleetRow:
    if version.run_id is None:
        return FleetRow(version=version, unknown="the registry tells no run of it, with which a lock could stand")
    try:
        path = tools.store.download(version.run_id, f"{RUN_FOLDER}/{LOCKFILE_NAME}", into)
        if path is None:
            return FleetRow(version=version, unknown="no lock stands with its run: kbuild lock makes one")
        content = lock_bytes(path, source=f"the lock of {version}")
        path.unlink()
        digest = digest_bytes(content)
        entries = _entries(content, tools.cache / "lock-packages" / digest.hex, str(version))
    except Exception as error:  # noqa: BLE001  what one model meets must not take the others' answers
        return FleetRow(version=version, unknown=known_error(error).message)
    found: Affected = question.ask(entries)
    unsure = f"nobody can say it of {', '.join(found.unsure)}" if found.unsure else None
    return FleetRow(version=version, lock=str(digest), affected=found.packages, unknown=unsure)


def _entries(content: bytes, kept: Path, source: str) -> list[LockEntry]:
    """The packages of a lock; what the same bytes said before is taken from the cache."""
    try:
        rows = json.loads(read_vouched(kept))
    except FileNotFoundError:
        rows = [[each.manager, each.name, each.version] for each in view_lock(content, source=source).unique()]
        write_if_allowed(kept, json.dumps(rows).encode())
    return [LockEntry(place="", name=name, version=version, manager=manager, subdir="", url=None, sha256=None)
            for manager, name, version in rows]  # fmt: skip
