"""Auditing a model, an image or a lockfile."""

from __future__ import annotations

import datetime
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.api.find import existing_image, no_image
from kbuild.api.project import ProjectConfig
from kbuild.api.request import LockOptions, make_lock_request
from kbuild.api.session import Session, open_session, take_model
from kbuild.audit.finding import Severity
from kbuild.audit.policy import ServiceName, join_policies
from kbuild.errors import ConfigurationError, InvalidReference, KbuildError, ModelNotFound
from kbuild.files import expand_home, meant_beside
from kbuild.model.model_reference import ModelReference
from kbuild.offered.given import take_either
from kbuild.plan.render import parse_template
from kbuild.platform import Platform
from kbuild.workflow.audit.auditor import Auditor
from kbuild.workflow.audit.request import Audited, AuditRequest

_LOCK_SUFFIXES = (".yml", ".yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditOptions:
    """How to audit; what is None is the project's policy.

    ``advisories`` are a file, a folder, an archive or a url of OSV records; ``image`` is also audited, with a model;
    ``today`` is a date such as 2027-01-31, with which expiry dates are compared. ``no_record`` writes nothing to the
    model's run.
    """

    fail_on: Severity | None = None
    advisories: str | None = None
    service: ServiceName | None = None
    offline: bool = False
    lockfile: Path | None = None
    image: str | None = None
    today: str | None = None
    no_record: bool = False
    platform: Platform | None = None


@take_either
def audit(
    reference: str | None = None, options: AuditOptions | None = None, *, session: Session | None = None
) -> Audited:
    """Audit a model, an image or a conda-lock.yml; None is the newest trained run of this project.

    What was found is in the result's ``report``; its ``raise_for_verdict`` raises what the command ends with:
    AuditFindings or AuditIncomplete. Raises InvalidReference for what is nothing to audit.
    """
    asked = options or AuditOptions()
    session = session or open_session()
    tools = session.tools
    auditor = Auditor(make_request(session.config, asked), tools)
    if reference is None:
        reference = take_model(None, session)
    path = expand_home(reference)
    if path.is_file() and path.suffix in _LOCK_SUFFIXES:
        if asked.image is not None or asked.lockfile is not None:
            raise InvalidReference(
                f"{reference!r} is a lock, and --image and --lockfile go with a model",
                hint=f"name the model before it: kbuild audit MODEL --lockfile {shlex.quote(reference)}",
            )
        return auditor.audit_lock(path)
    with tools.using_cache():
        return _audit_model(reference, asked, auditor, session)


def audit_registered(options: AuditOptions, session: Session) -> list[tuple[str, Audited | KbuildError]]:
    """Audit every registered model: of each the result, or why there is none."""
    auditor = Auditor(make_request(session.config, options), session.tools)
    with session.tools.using_cache():
        return list(auditor.audit_registered())


def make_request(config: ProjectConfig, options: AuditOptions) -> AuditRequest:
    """What the options do not say is the policy's."""
    policy = join_policies(config.audit)
    if options.advisories is not None:
        policy = replace(policy, advisories=options.advisories)
    if options.service is not None:
        policy = replace(policy, service=options.service)
    policy = replace(policy, fail_on=options.fail_on or policy.fail_on)
    return AuditRequest(
        policy=policy,
        today=_date(options.today),
        fail_on=policy.fail_on,
        lock=make_lock_request(config, LockOptions()),
        lockfile=options.lockfile,
        offline=options.offline,
        record=not options.no_record,
        template=parse_template(config.template),
        labels=config.labels,
        platform=options.platform,
    )


def _date(text: str | None) -> datetime.date:
    if text is None:
        return datetime.datetime.now(datetime.UTC).date()
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"--today {text!r} is not a date such as 2027-01-31") from error


def _audit_model(reference: str, asked: AuditOptions, auditor: Auditor, session: Session) -> Audited:
    tools = session.tools
    with existing_image(reference, tools, asked.platform) as found:
        if found is not None:
            if asked.image is not None:
                raise InvalidReference(
                    f"{reference!r} is an image, and --image is another one",
                    hint=f"name the model before it: kbuild audit MODEL --image {shlex.quote(asked.image)}",
                )
            return auditor.audit_image(found[0], reference)
    try:
        model = ModelReference.parse(take_model(reference, session))
    except (InvalidReference, ModelNotFound) as error:
        path = expand_home(reference)
        lock = meant_beside(path) if path.suffix in _LOCK_SUFFIXES else None
        raise InvalidReference(
            f"{reference!r} is not a model, an image built here or in a registry, an OCI layout or tar, or a"
            " conda-lock.yml",
            hint=error.hint if lock is None else f"did you mean {lock}?",
        ) from error
    if asked.image is None:
        return auditor.audit_model(model)
    with existing_image(asked.image, tools, asked.platform) as found:
        if found is None:
            absent = no_image(asked.image, tools)
            raise InvalidReference(absent.message, hint=absent.hint)
        return auditor.audit_model(model, image=found[0])
