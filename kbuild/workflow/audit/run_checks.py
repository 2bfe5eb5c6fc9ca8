"""The checks of an audit, with the advisories, services and indexes that they ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from kbuild.audit.checks.closure import ClosureCheck
from kbuild.audit.checks.code import CodeCheck
from kbuild.audit.checks.drift import DriftCheck
from kbuild.audit.checks.image import BaseCheck, ImageCheck
from kbuild.audit.checks.integrity import IntegrityCheck
from kbuild.audit.checks.licences import LicenceCheck
from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.checks.releases import Lookup, ReleaseCheck
from kbuild.audit.checks.secrets import SecretCheck
from kbuild.audit.checks.vulnerabilities import VulnerabilityCheck
from kbuild.audit.finding import CheckResult
from kbuild.audit.policy import ServiceName
from kbuild.audit.sources.advisories import AdvisoryDatabase, read_advisories
from kbuild.audit.sources.osv_api import OsvApi
from kbuild.audit.sources.services import Service, make_pypi_service
from kbuild.audit.subject import Check, Subject
from kbuild.environment.index.package_indexes import Indexes, IndexFile, find_files
from kbuild.environment.index.pip_network import configure
from kbuild.environment.links import is_local
from kbuild.environment.locking.wanted import LockRequest, named_indexes
from kbuild.errors import IndexUnavailable, KbuildError
from kbuild.http import ThreadSessions, bounded_session
from kbuild.model.bundle import ModelBundle
from kbuild.process.asking import asking_pool
from kbuild.progress import Progress
from kbuild.urls.credentials import without_user
from kbuild.workflow import Tools
from kbuild.workflow.audit.request import AuditRequest
from kbuild.workflow.audit.tables import fits

_ASKING = (VulnerabilityCheck, ReleaseCheck)


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The user's package indexes, None where none is configured (``reason`` says why); ``environ`` with their
    credentials."""

    indexes: Indexes | None
    reason: str
    environ: Mapping[str, str] = field(repr=False)

    def credentials_for(self, url: str) -> tuple[str, str] | None:
        """User and password for a url on the host of an index."""
        return None if self.indexes is None else self.indexes.credentials_for(url, self.environ)

    def of_model(self, bundle: ModelBundle, request: LockRequest) -> tuple[Indexes, ...]:
        """The indexes that a model's lock is made from, the configured ones and its own; none where nobody knows."""
        if self.indexes is None:
            return ()
        try:
            return (named_indexes(bundle, request, self.indexes),)
        except KbuildError:
            return ()  # whether the lock is fresh cannot be told then, which is said


def find_network(tools: Tools, environ: Mapping[str, str]) -> Network:
    """Reads pip's configuration; asks nobody."""
    try:
        indexes = tools.ask_pip(environ)
    except KbuildError as error:
        return Network(indexes=None, reason=error.message, environ=environ)
    return Network(indexes=indexes, reason="", environ={**environ, **indexes.environment})


def make_checks(request: AuditRequest, network: Network, progress: Progress, *, downloads: Path) -> list[Check]:
    """Every check; raises ConfigurationError when the advisories are none. ``downloads`` keeps locked packages.

    Advisories at a url that does not answer are no error: the vulnerability check says that they are missing.
    """
    policy = request.policy
    allowed = tuple(each.name for each in policy.allowed_pickles)
    database: AdvisoryDatabase | None = None
    unavailable = None
    if policy.advisories is not None:
        progress.note("reading the advisories")
        try:
            database = read_advisories(policy.advisories)
        except IndexUnavailable as error:
            unavailable = error.message
    return [
        IntegrityCheck(
            policy,
            indexes=() if network.indexes is None else (*network.indexes.urls, *network.indexes.find_links),
            channels=request.lock.channels,
            lookup=_lookup(request, network),
        ),
        ClosureCheck(downloads=downloads),
        BaseCheck(),
        ImageCheck(),
        DriftCheck(),
        VulnerabilityCheck(
            database=database,
            services=_services(request, network),
            osv=_osv(request),
            today=request.today,
            max_age=policy.max_advisory_age,
            unavailable=unavailable,
            offline=request.offline,
        ),
        SecretCheck(fits=fits),
        ReleaseCheck(_lookup(request, network), unasked=_unasked(request, network)),
        PickleCheck(downloads=downloads, allowed=allowed),
        CodeCheck(allowed=allowed),
        *([] if policy.licences is None else [LicenceCheck(policy.licences, downloads=downloads)]),
    ]


def run_checks(checks: Sequence[Check], subject: Subject, progress: Progress) -> list[CheckResult]:
    """What each check finds, in their order. Those that ask servers wait beside the others."""
    with asking_pool(len(_ASKING)) as pool:
        waiting = {check.id: pool.submit(check.run, subject) for check in checks if isinstance(check, _ASKING)}
        results = []
        for check in checks:
            progress.note(f"checking {check.id}")
            results.append(waiting[check.id].result() if check.id in waiting else check.run(subject))
        return results


def _service(request: AuditRequest) -> ServiceName:
    default: ServiceName = "none" if request.policy.advisories is not None else "all"
    return "none" if request.offline else request.policy.service or default


def _osv(request: AuditRequest) -> OsvApi | None:
    return OsvApi(request.policy.osv_url) if _service(request) in ("all", "osv") else None


def _services(request: AuditRequest, network: Network) -> list[Service]:
    policy = request.policy
    if _service(request) not in ("all", "pypi"):
        return []
    if policy.pypi_url is not None:
        return [make_pypi_service(policy.pypi_url, credentials=network.credentials_for, environ=network.environ)]
    served = [] if network.indexes is None else [url for url in network.indexes.urls if not is_local(url)]
    if not served:
        return []
    return [make_pypi_service(without_user(served[0]), credentials=network.credentials_for, environ=network.environ)]


def _unasked(request: AuditRequest, network: Network) -> tuple[str, str]:
    """Why the index is not asked, and what to do about it."""
    if request.offline:
        return "--offline: the package index was not asked", "audit without --offline"
    return network.reason, "name an index in pip's configuration (pip config list), and audit again"


def _lookup(request: AuditRequest, network: Network) -> Lookup | None:
    indexes = network.indexes
    if request.offline or indexes is None:
        return None

    def make() -> requests.Session:
        session = bounded_session()
        configure(session, network.environ)
        return session

    sessions = ThreadSessions(make)

    def look(name: str, /, *own: Indexes) -> list[IndexFile]:
        places = own or (indexes,)
        return [
            file for each in places for file in find_files(name, each, environ=network.environ, session=sessions.mine())
        ]

    return look
