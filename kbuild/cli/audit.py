"""``kbuild audit``."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kbuild.api.find import REGISTRY_FORM, existing_image
from kbuild.api.project import ProjectConfig
from kbuild.api.request import LockOptions, make_lock_request
from kbuild.api.session import take_model
from kbuild.audit.finding import SEVERITIES
from kbuild.audit.policy import SERVICES, Ignore, Policy, join_policies
from kbuild.audit.report.report import report_schema
from kbuild.cache.folder import using_cache
from kbuild.cli.audit_fleet import FORMATS as FLEET_FORMATS
from kbuild.cli.audit_fleet import raise_for_fleet, render_fleet
from kbuild.cli.audit_formats import FORMATS, OF_ONE, render, render_all, worst_of
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, complete_image, make_tools, platform_option
from kbuild.cli.show import Show
from kbuild.errors import (
    AuditFindings,
    AuditIncomplete,
    ConfigurationError,
    InvalidReference,
    ModelNotFound,
    OutputError,
)
from kbuild.files import expand_home
from kbuild.model.model_reference import ModelReference
from kbuild.plan.render import parse_template
from kbuild.platform import Platform
from kbuild.workflow import Tools
from kbuild.workflow.audit.auditor import Auditor
from kbuild.workflow.audit.fleet import ask_fleet, make_question
from kbuild.workflow.audit.request import Audited, AuditRequest

_LOCK_SUFFIXES = (".yml", ".yaml")


@click.command("audit")
@click.argument("reference", required=False, shell_complete=complete_either)
@click.option("--all-registered", is_flag=True, help="Every registered model: its newest and its aliased versions.")
@click.option(
    "--affected-by",
    metavar="ID|PACKAGE",
    help="With --all-registered: which of them have an advisory (CVE-…) or a package ('jinja2<3').",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Of the report.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the report here instead of to stdout.")
@click.option(
    "--fail-on",
    type=click.Choice(SEVERITIES),
    help="The least severity that fails.  [default: low, or the project's fail-on]",
)
@click.option("--advisories", metavar="PATH|URL", help="OSV records: a file, a folder, a .tar.gz or .zip, or a url.")
@click.option(
    "--service",
    type=click.Choice(SERVICES),
    help="Online advisories: of your package index, of OSV, of both or none.  [default: all; none with --advisories]",
)
@click.option("--offline", is_flag=True, help="Ask neither services nor the package index.")
@click.option("--lockfile", type=click.Path(path_type=Path), help="Audit with this conda-lock.yml, not the stored one.")
@click.option(
    "--image",
    "image",
    metavar="IMAGE",
    shell_complete=complete_image,
    help="Also the image of MODEL: a name, a layout or a tar.",
)
@click.option("--today", metavar="DATE", help="The day that expiry dates are compared with.  [default: today]")
@click.option("--no-record", is_flag=True, help="Do not write report, SBOM and tags to the MLflow run.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of the report of --format json.")
@platform_option
@env_option
def command(
    reference: str | None,
    all_registered: bool,
    affected_by: str | None,
    form: str,
    output: Path | None,
    schema: bool,
    **options: Any,
) -> None:
    """Audit REFERENCE: a model, an image, or a conda-lock.yml.

    A model is what "kbuild image" takes, and without a REFERENCE it is the newest trained run; an image is one built
    here, one of a registry (REGISTRY/NAME@sha256:…), an OCI layout or a tar. The exit code is 0 when all is clean, 51
    for findings, and 52 when something could not be checked.
    """
    if schema:
        _deliver(json.dumps(report_schema(), indent=2) + "\n", output)
        return
    if reference is not None and all_registered:
        raise click.UsageError("give a REFERENCE or --all-registered")
    if all_registered and form in OF_ONE:
        raise click.UsageError(f"--format {form} is of one model")
    if affected_by is not None and not all_registered:
        raise click.UsageError("--affected-by goes with --all-registered")
    if affected_by is not None and form not in FLEET_FORMATS:
        raise click.UsageError(f"--affected-by has the formats {' and '.join(FLEET_FORMATS)}")
    show = Show()
    tools, config = make_tools(show)
    if affected_by is not None:
        question = make_question(affected_by, _request(config, options))
        with using_cache(tools.cache, limit=tools.cache_limit):
            rows = list(ask_fleet(question, tools))
        _deliver(render_fleet(rows, affected_by, form), output)
        if not question.met:
            show.complain(f"no lock names a package that {affected_by} is of: see that it is written rightly")
        raise_for_fleet(rows, affected_by)
        return
    auditor = Auditor(_request(config, options), tools)
    if not all_registered:

        def take(text: str | None) -> str:
            return take_model(text, tools, config, show)

        meant = take(None) if reference is None else reference
        audited = _audit(meant, options["image"], auditor, tools, options["platform"], take)
        text = render(audited, form, to_terminal=output is None)
        if text is None:
            if output is not None:
                output.unlink(missing_ok=True)  # what it said before is not so now
            show.say("no vulnerability is known, so there is nothing that OpenVEX could state: no document is written")
        else:
            _deliver(text, output)
        _tell(show, audited)
        _exit(audited.report.verdict, audited.report.reference, audited.report.lapsed)
        return
    with using_cache(tools.cache, limit=tools.cache_limit):
        results = list(auditor.audit_registered())
    _deliver(render_all(results, form), output)
    if not results:
        show.say("no model is registered")
    worst, number = worst_of(results)
    lapsed = tuple(
        dict.fromkeys(each for _, result in results if isinstance(result, Audited) for each in result.report.lapsed)
    )
    _exit(worst, f"{number} of {len(results)} registered models", lapsed)


def _request(config: ProjectConfig, options: dict[str, Any]) -> AuditRequest:
    policy = _override(join_policies(config.audit), options)
    return AuditRequest(
        policy=policy,
        today=_date(options["today"]),
        fail_on=policy.fail_on,
        lock=make_lock_request(config, LockOptions()),
        lockfile=options["lockfile"],
        offline=options["offline"],
        record=not options["no_record"],
        template=parse_template(config.template),
        labels=config.labels,
    )


def _override(policy: Policy, options: dict[str, Any]) -> Policy:
    if options["advisories"] is not None:
        policy = replace(policy, advisories=options["advisories"])
    if options["service"] is not None:
        policy = replace(policy, service=options["service"])
    return replace(policy, fail_on=options["fail_on"] or policy.fail_on)


def _date(text: str | None) -> datetime.date:
    if text is None:
        return datetime.datetime.now(datetime.UTC).date()
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"--today {text!r} is no date such as 2027-01-31") from error


def _audit(
    reference: str,
    image: str | None,
    auditor: Auditor,
    tools: Tools,
    platform: Platform | None,
    take: Callable[[str], str],
) -> Audited:
    path = expand_home(reference)
    if path.is_file() and path.suffix in _LOCK_SUFFIXES:
        return auditor.audit_lock(path)
    with using_cache(tools.cache, limit=tools.cache_limit):
        return _audit_model(reference, image, auditor, tools, platform, take)


def _audit_model(
    reference: str,
    image: str | None,
    auditor: Auditor,
    tools: Tools,
    platform: Platform | None,
    take: Callable[[str], str],
) -> Audited:
    with existing_image(reference, tools, platform) as found:
        if found is not None:
            return auditor.audit_image(found[0], reference)
    try:
        model = ModelReference.parse(take(reference))
    except (InvalidReference, ModelNotFound) as error:
        raise InvalidReference(
            f"{reference!r} is no model, no image built here or in a registry, no OCI layout or tar, and no"
            " conda-lock.yml",
            hint=error.hint,
        ) from error
    if image is None:
        return auditor.audit_model(model)
    with existing_image(image, tools, platform) as found:
        if found is None:
            raise InvalidReference(f"{image!r} is no image built here and no OCI layout or tar", hint=REGISTRY_FORM)
        return auditor.audit_model(model, image=found[0])


def _deliver(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}") from error


def _tell(show: Show, audited: Audited) -> None:
    if audited.recorded_in is not None:
        show.say(f"report and SBOM are with run {audited.recorded_in}")


def _exit(verdict: str, what: str, lapsed: Sequence[Ignore]) -> None:
    expired = "".join(f"; the ignore of {each} expired on {each.expires}" for each in lapsed)
    places = " and ".join(dict.fromkeys(each.source for each in lapsed))
    again = f"; look at what is ignored in {places} again" if lapsed else ""
    if verdict == "findings":
        raise AuditFindings(f"the audit of {what} has findings{expired}", hint=f"each says what to do{again}")
    if verdict == "incomplete":
        raise AuditIncomplete(
            f"not everything of {what} could be checked{expired}", hint=f"the report says what, and why{again}"
        )
