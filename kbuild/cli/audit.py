"""``kbuild audit``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from kbuild.api.auditing import AuditOptions, audit, audit_registered, make_request
from kbuild.api.session import Session
from kbuild.audit.finding import SEVERITIES
from kbuild.audit.policy import SERVICES
from kbuild.audit.report.report import report_schema
from kbuild.cli.audit_fleet import FORMATS as FLEET_FORMATS
from kbuild.cli.audit_fleet import raise_for_fleet, render_fleet
from kbuild.cli.audit_formats import FORMATS, OF_ONE, REPORTS, render, render_all, worst_of
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, complete_image, open_here, platform_option
from kbuild.cli.show import Show
from kbuild.errors import OutputError
from kbuild.offered.change import short_digests
from kbuild.progress import how_many
from kbuild.workflow.audit.fleet import ask_fleet, make_question
from kbuild.workflow.audit.request import Audited, raise_for_verdict


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
    "--reports",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Also write {', '.join(REPORTS)} into this folder.",
)
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
    reports: Path | None,
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
    if all_registered and reports is not None:
        raise click.UsageError("--reports is of one model")
    if all_registered and (options["image"] is not None or options["lockfile"] is not None):
        raise click.UsageError("--image and --lockfile are of one model")
    if affected_by is not None and not all_registered:
        raise click.UsageError("--affected-by goes with --all-registered")
    if affected_by is not None and form not in FLEET_FORMATS:
        raise click.UsageError(f"--affected-by has the formats {' and '.join(FLEET_FORMATS)}")
    show = Show()
    session = open_here(show)
    asked = AuditOptions(**options)
    if affected_by is not None:
        _ask_all(affected_by, asked, session, show, form, output)
    elif all_registered:
        _audit_all(asked, session, show, form, output)
    else:
        audited = audit(reference, asked, session=session)
        text = render(audited, form, to_terminal=output is None)
        if text is None:
            if output is not None:
                output.unlink(missing_ok=True)  # what it said before is not so now
            show.say("no vulnerability is known, so there is nothing that OpenVEX could state: no document is written")
        else:
            _deliver(text, output)
        if reports is not None:
            for name, each in REPORTS.items():
                _deliver(render(audited, each, to_terminal=False) or "", reports / name)
        _tell(show, audited)
        if form == "table":
            given = "" if reference is None else f" {shlex.quote(reference)}"
            show.next({f"kbuild audit{given} --format html -o audit.html": "the same as a page, to look into"})
        audited.raise_for_verdict()


def _ask_all(
    affected_by: str, asked: AuditOptions, session: Session, show: Show, form: str, output: Path | None
) -> None:
    """Which registered models an advisory is of; raises what the command ends with."""
    question = make_question(affected_by, make_request(session.config, asked))
    with session.tools.using_cache():
        rows = list(ask_fleet(question, session.tools))
    _deliver(render_fleet(rows, affected_by, form), output)
    if not question.met:
        none = f"no lock names a package that {affected_by} is of: see that it is written rightly"
        show.complain(none if rows else "no model is registered here: MLFLOW_TRACKING_URI names another server")
    raise_for_fleet(rows, affected_by)


def _audit_all(asked: AuditOptions, session: Session, show: Show, form: str, output: Path | None) -> None:
    """Every registered model; raises what the command ends with."""
    results = audit_registered(asked, session)
    _deliver(render_all(results, form, to_terminal=output is None), output)
    if not results:
        show.say("no model is registered")
    worst, number = worst_of(results)
    lapsed = tuple(
        dict.fromkeys(each for _, result in results if isinstance(result, Audited) for each in result.report.lapsed)
    )
    raise_for_verdict(worst, f"{number} of {how_many(len(results), 'registered model')}", lapsed)


def _deliver(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}") from error


def _tell(show: Show, audited: Audited) -> None:
    if audited.recorded_in is not None:
        what = (
            "report and SBOM" if audited.report.image_sizes is None else "report, SBOM and the picture of its packages"
        )
        show.say(f"{what} are with run {short_digests(audited.recorded_in)}")
