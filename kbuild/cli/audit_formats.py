"""The forms in which ``kbuild audit`` gives its reports."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence

from kbuild.audit.report.openvex import openvex
from kbuild.audit.report.page import page
from kbuild.audit.report.plain import plain_json
from kbuild.audit.report.report import FORMAT
from kbuild.audit.report.sarif import sarif
from kbuild.audit.report.spdx import spdx
from kbuild.audit.report.text import cell, code, markdown, summary, summary_table, table
from kbuild.errors import KbuildError
from kbuild.workflow.audit.request import Audited

FORMATS = ("table", "json", "markdown", "html", "sarif", "cyclonedx", "spdx", "openvex")
OF_ONE = frozenset({"cyclonedx", "spdx", "openvex"})
"""The formats whose documents are each about one model."""

REPORTS = {"audit.md": "markdown", "audit.html": "html", "audit.sarif": "sarif", "sbom.cdx.json": "cyclonedx"}
"""What ``--reports`` writes, by the names that those who read such files look for."""

Results = Sequence[tuple[str, Audited | KbuildError]]


def render(audited: Audited, form: str, *, to_terminal: bool) -> str | None:
    """One audit in one of ``FORMATS``; None where the format has no document for it."""
    if form == "json":
        return plain_json(audited.report.to_json())
    if form == "markdown":
        return markdown(audited.report)
    if form == "html":
        return page([(audited.report, json.loads(audited.sbom))], audited.report.verdict)
    if form == "sarif":
        return sarif([audited.report])
    if form == "cyclonedx":
        return audited.sbom
    if form == "spdx":
        return spdx(json.loads(audited.sbom))
    if form == "openvex":
        return openvex(audited.report, json.loads(audited.sbom))
    return table(audited.report, width=_width(), colour=to_terminal and sys.stdout.isatty())


def render_all(results: Results, form: str, *, to_terminal: bool) -> str:
    """Many models' audits, and the errors of those that could not be audited."""
    reports = [result.report for _, result in results if isinstance(result, Audited)]
    failed = [(text, result.message) for text, result in results if isinstance(result, KbuildError)]
    if form == "json":
        errors = [{"reference": text, "error": message} for text, message in failed]
        value = {
            "format": FORMAT,
            "verdict": worst_of(results)[0],
            "reports": [each.to_json() for each in reports],
            "errors": errors,
        }
        return plain_json(value)
    if form == "html":
        audits = [(each.report, json.loads(each.sbom)) for _, each in results if isinstance(each, Audited)]
        return page(audits, worst_of(results)[0], failed)
    if form == "sarif":
        return sarif(reports, failed)
    rows = [(text, _line(result)) for text, result in results]
    if form == "markdown":
        lines = [f"- `{code(text)}`: {cell(line)}" for text, line in rows]
        return "\n".join(["### kbuild audit", "", *lines, "", *map(markdown, reports)]) + "\n"
    width, colour = _width(), to_terminal and sys.stdout.isatty()
    tables = [table(each, width=width, colour=colour) for each in reports if each.verdict != "clean"]
    return "".join([*tables, summary_table(rows, width=width, colour=colour)])


def worst_of(results: Results) -> tuple[str, int]:
    """The verdict of all, and how many have it; what could not be audited is incomplete."""
    verdicts = [result.report.verdict if isinstance(result, Audited) else "incomplete" for _, result in results]
    worst = "findings" if "findings" in verdicts else "clean" if set(verdicts) <= {"clean"} else "incomplete"
    return worst, sum(each == worst for each in verdicts)


def _line(result: Audited | KbuildError) -> str:
    return summary(result.report) if isinstance(result, Audited) else f"incomplete: {result.message}"


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns
