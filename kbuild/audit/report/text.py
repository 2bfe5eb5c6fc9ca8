"""The report as text for people: a table for a terminal, and markdown for a merge request."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kbuild.audit.finding import UNCHECKED_ID, Finding
from kbuild.audit.report.report import AuditReport
from kbuild.progress import at_most
from kbuild.untrusted import fold, plain

_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}
_SHOWN = 10
# So many findings that say the same are told in one row.
_FEWEST = 4
_MOST_NAMES = 6
_IMPORTS = "would import "
_IMPORTED = re.compile(rf"{_IMPORTS}[\w.]+\w")
_OWN = re.compile(
    r"package\[\d+\]|\bsha256[:= ]?[0-9a-f]{8,64}|\b[0-9a-f]{32,64}\b|https?://\S+|\S+\.(?:whl|conda|tar\.gz|tar\.bz2)"
)


def summary(report: AuditReport) -> str:
    """``incomplete: 2 findings (1 high, 1 low), 3 not checked``."""
    counts = ", ".join(f"{number} {severity}" for severity, number in report.counts().items() if number)
    number = len(report.findings)
    parts = [f"{number} finding{'' if number == 1 else 's'}" + (f" ({counts})" if counts else "")]
    if report.unchecked:
        parts.append(f"{len(report.unchecked)} not checked")
    if report.accepted:
        parts.append(f"{len(report.accepted)} accepted")
    return f"{report.verdict}: {', '.join(parts)}"


def table(report: AuditReport, *, width: int, colour: bool) -> str:
    """For a terminal of that many columns; without ``colour`` for a file or a pipe, where a line is a line."""
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, highlight=False, soft_wrap=False)
    console.print(_text(f"{report.reference}  {report.date}"), soft_wrap=not colour)
    if report.findings:
        shown = Table(box=SIMPLE_HEAD, expand=True)
        rows = [(each, at_most(places, _SHOWN), places) for each, places in grouped(report.findings)]
        # Names of packages stay whole as far as that leaves room for what to do.
        least = min(width // 4, max(len(word) for _, where, _ in rows for word in where.split()))
        # An id is looked for in logs and copied into policies: it stays in one piece, also where there are few columns.
        for name, ratio in (("severity", None), ("id", None), ("where", 2), ("what, and what to do", 5)):
            # What rich takes for the least of a column that has a ratio.
            narrowest = least if name == "where" else None
            shown.add_column(name, ratio=ratio, overflow="fold", no_wrap=name == "id", width=narrowest)
        for each, where, places in rows:
            what = _text(_evidence(each, places)).append(plain(f"\n→ {each.remedy}"), style="dim")
            severity = Text(each.severity, style=_STYLES[each.severity])
            shown.add_row(severity, _text(each.id), _text(where), what)
        console.print(shown)
    for line in _notes(report):
        console.print(Text(fold(plain(line), width, indent=2) if colour else plain(line)), soft_wrap=True)
    console.print(Text(summary(report), style="green" if report.verdict == "clean" else "bold"))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def markdown(report: AuditReport) -> str:
    """GitHub-flavoured markdown; nothing in it can break out of the table."""
    lines = [f"### kbuild audit: {cell(summary(report))}", "", f"`{code(report.reference)}`, {report.date}", ""]
    if report.findings:
        lines += ["| severity | id | where | evidence | remedy |", "|---|---|---|---|---|"]
        for each, places in grouped(report.findings):
            cells = (each.severity, each.id, at_most(places, _SHOWN), _evidence(each, places), each.remedy)
            lines.append(f"| {' | '.join(map(cell, cells))} |")
        lines.append("")
    lines += [f"- {cell(line)}" for line in _notes(report)]
    return "\n".join(lines).rstrip("\n") + "\n"


def summary_table(rows: Sequence[tuple[str, str]], *, width: int, colour: bool) -> str:
    """References with their verdicts, one a line."""
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, highlight=False)
    shown = Table(box=SIMPLE_HEAD)
    shown.add_column("model", overflow="fold")
    shown.add_column("verdict", overflow="fold")
    for reference, verdict in rows:
        shown.add_row(_text(reference), _text(verdict))
    console.print(shown)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _text(text: str) -> Text:
    return Text(plain(text))


def grouped(findings: Sequence[Finding]) -> list[tuple[Finding, list[str]]]:
    """Findings of one kind that say the same of many places are one row, with the places; and those of what a pickle
    names of one package, with what is typed for all of it."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for each in findings:
        whole = _of_package([each])
        key = (each.id, each.severity, _alike(each, whole.evidence), _alike(each, whole.remedy))
        groups.setdefault((*key, each.where) if whole is not each else key, []).append(each)
    rows = []
    for group in groups.values():
        if len(group) < _FEWEST:
            rows += [(each, (each, [_place(each)])) for each in group]
        else:
            whole = _of_package(group)
            places = [_place(each) for each in group]
            rows.append((group[0], (whole, places if whole is group[0] else places[:1])))
    order = {id(each): number for number, each in enumerate(findings)}
    return [row for _, row in sorted(rows, key=lambda row: order[id(row[0])])]


def _of_package(findings: Sequence[Finding]) -> Finding:
    """What these say of one package together; the first itself where it names nothing of one."""
    named = [_IMPORTED.search(each.evidence) for each in findings]
    names = [each[0].removeprefix(_IMPORTS) for each in named if each is not None]
    if not names or len(names) < len(findings):
        return findings[0]
    package = names[0].partition(".")[0]
    told = f"{_IMPORTS}{len(names)} names of {package}: {at_most(names, _MOST_NAMES)}"
    first = findings[0]
    evidence = first.evidence.replace(_IMPORTS + names[0], told, 1).replace(", which is ", ", which are ", 1)
    return replace(
        first,
        evidence=evidence if len(names) > 1 else package,
        remedy=first.remedy.replace(f'"{names[0]}"', f'"{package}.*"'),
    )


def _alike(finding: Finding, text: str) -> str:
    """A text without what is its own package's: name, version, place in the lock, digests."""
    for own in filter(None, (finding.where, finding.where.partition(":")[2], finding.version)):
        text = text.replace(own, "…")
    return _OWN.sub("…", text)


def _place(finding: Finding) -> str:
    return f"{finding.where} {finding.version}" if finding.version else finding.where


def _evidence(finding: Finding, places: list[str]) -> str:
    return finding.evidence if len(places) == 1 else f"{finding.evidence}; the same of {len(places) - 1} more"


def _notes(report: AuditReport) -> list[str]:
    unchecked, accepted, others = noted(report)
    return [*(f"not checked {each}" for each in unchecked), *(f"accepted {each}" for each in accepted), *others]


def noted(report: AuditReport) -> tuple[list[str], list[str], list[str]]:
    """What was not checked, what is accepted, and what else is to be said, each a line; the same is said once."""
    by_reason: dict[tuple[str, str, str], list[str]] = {}
    for each in report.unchecked:
        by_reason.setdefault((each.check, each.reason, each.remedy), []).append(each.where)
    unchecked = []
    for (check, reason, remedy), where in by_reason.items():
        place = "" if where == [check] else f"{at_most(where, _SHOWN)}: "
        unchecked.append(f"({check}): {place}{reason}; {remedy}")
    by_entry: dict[tuple[str, str, str], list[str]] = {}
    for each_accepted in report.accepted:
        name = getattr(each_accepted.item, "id", UNCHECKED_ID)
        key = (each_accepted.until, name, each_accepted.reason)
        by_entry.setdefault(key, []).append(each_accepted.item.where)
    accepted = [
        f"{until}: {name} of {at_most(where, _SHOWN)}: {reason}" for (until, name, reason), where in by_entry.items()
    ]
    others = [
        *(
            f"the ignore of {ignore} expired on {ignore.expires} and counts no more: {ignore.reason}"
            for ignore in report.expired
        ),
        # Packages that may be unchecked, where another model has them: kbuild init writes such a list.
        *(
            f"the ignore of {ignore} covers nothing here"
            for ignore in report.unused
            if not (ignore.id == UNCHECKED_ID and ignore.packages)
        ),
        *report.notes,
    ]
    for source in report.sources:
        dated = f", newest of {source.date}, {source.records} records" if source.date else ""
        # What it said is told with what could not be checked for it.
        what, _, said = (source.fault or "").partition(": ")
        told = what if any(said and said in each.reason for each in report.unchecked) else source.fault
        fault = f"; {told}" if told else ""
        others.append(f"advisories: {source.name}{dated}{fault}")
    return unchecked, accepted, others


def cell(text: str) -> str:
    """On one line, and no markup."""
    flat = " ".join(plain(text).split())
    for character in "\\`*_[]<>|":
        flat = flat.replace(character, f"\\{character}")
    return flat


def code(text: str) -> str:
    """For between two backticks."""
    return " ".join(plain(text).split()).replace("`", "'")
