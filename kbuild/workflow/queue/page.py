"""A queue as a page and as metrics: made anew for each look, with nothing from elsewhere and no script.

Metrics are of Prometheus' text format 0.0.4 (its docs, "Exposition formats").
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from kbuild.workflow.queue.states import STATUSES, Figures, JobState, Status

SHOWN = 200
"""So many jobs a page has: the newest."""
_EVERY = 5  # seconds after which a browser asks again
# Beside the style of an image's pages: models and what became of them share the room, and break where they must.
_OWN = (
    "header,main{max-width:80rem}nav{flex-wrap:wrap;row-gap:.2rem}.told table{width:100%}"
    ".told .what{overflow-wrap:anywhere;min-width:14rem;font-size:inherit}.told .model{min-width:10rem}"
    "@media(max-width:30rem){.told{position:relative;overflow:hidden}"
    ".told td{min-width:0!important;text-align:left!important}}"
)
_TITLES = ("Job", "Status", "Model", "What of it", "By", "Seconds", "Priority")


@functools.cache
def page_headers() -> tuple[tuple[str, str], ...]:
    """What belongs to each answer with a page; the style is the page's own, by Content Security Policy Level 3."""
    style = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    return (
        ("content-security-policy", policy),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    )


def make_page(name: str, figures: Figures, jobs: Sequence[JobState], chosen: Status | None) -> bytes:
    """``name`` is the queue's, without credentials; ``jobs`` are shown, those of the status ``chosen`` or of all."""
    total = sum(figures.jobs.values())
    links = [("all", total, "./", chosen is None)]
    links += [(each, figures.jobs[each], f"./?status={each}", chosen == each) for each in STATUSES]
    nav = "".join(
        f"<a href='{path}'{' aria-current=page' if here else ''}>{words} {count}</a>"
        for words, count, path, here in links
    )
    rows = "".join(_row(each) for each in jobs) or f"<tr><td colspan={len(_TITLES)}>none</td></tr>"
    head = "".join(f"<th scope=col>{each}</th>" for each in _TITLES)
    told = f"{figures.workers} worker{'' if figures.workers == 1 else 's'}"
    if figures.oldest is not None:
        told += f" · the oldest job has waited {_duration(figures.oldest)}"
    if figures.builds:
        told += f" · {figures.seconds / figures.builds:.1f} s a model"
    more = f"<p class=soft>the newest {len(jobs)}</p>" if len(jobs) == SHOWN else ""
    return (
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'><link rel=icon href='data:,'>"
        f"<meta http-equiv=refresh content={_EVERY}><title>{escape(name)}</title><style>{_style()}</style></head><body>"
        f"<header><div><h1>{escape(name)}</h1><p class=soft>{escape(told)}</p></div>"
        f"<nav aria-label=Jobs>{nav}</nav></header><main><section class=card><div class='wide told'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{more}</section></main></body></html>"
    ).encode()


def make_metrics(figures: Figures) -> str:
    """The figures for Prometheus; its names end in their units."""
    lines = [
        "# HELP kbuild_queue_jobs Jobs in the queue by status.",
        "# TYPE kbuild_queue_jobs gauge",
        *(f'kbuild_queue_jobs{{status="{status}"}} {count}' for status, count in figures.jobs.items()),
    ]
    single = (
        ("kbuild_queue_workers", "Workers that were heard of within their lease.", figures.workers),
        ("kbuild_queue_oldest_waiting_seconds", "How long the oldest job has waited.", figures.oldest or 0),
        # Gauges all: whoever deletes old jobs takes theirs away.
        ("kbuild_queue_lost_workers", "Workers that the jobs in the table have lost.", figures.lost),
        ("kbuild_queue_ended_builds", "Jobs in the table whose last attempt had an end.", figures.builds),
        ("kbuild_queue_ended_builds_seconds", "Seconds that those attempts took.", figures.seconds),
    )
    for name, told, value in single:
        lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge", f"{name} {value:g}"]
    return "\n".join(lines) + "\n"


def what_of(job: JobState) -> str:
    """In a line what a job comes to, or came to."""
    entry = job.entry or {}
    match job.status:
        case "building":
            doing = " ".join(filter(None, (job.phase, job.note))) or "begins"
            return f"is being cancelled; {doing}" if job.cancelling else doing
        case "waiting" if job.error is not None:
            when = "" if job.again is None else f", again at {job.again.astimezone(datetime.UTC):%H:%M:%S} UTC"
            return f"attempt {job.failures} failed{when}: {job.error}"
        case "done":
            return f"{entry.get('status', 'built')} {entry.get('pushed') or entry.get('image') or ''}".strip()
        case "failed":
            return job.error or "failed"
        case _:
            return (
                ""
                if job.lost == 0 or job.status != "waiting"
                else f"lost {job.lost} worker{'s' if job.lost > 1 else ''}"
            )


def _row(job: JobState) -> str:
    seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
    bad = job.status == "failed" or (job.status == "waiting" and bool(job.error))
    cells = (
        (" class=number", str(job.id)),
        ("", job.status),
        (" class=model", f"<code>{escape(job.model)}</code>"),
        (f" class='what{' wrong' if bad else ''}'", escape(what_of(job))),
        ("", escape(job.worker or "")),
        (" class=number", seconds),
        (" class=number", str(job.priority)),
    )
    # On a phone each cell is a line, with its title before it.
    made = (f"<td{how} data-head='{title}'>{text}</td>" for (how, text), title in zip(cells, _TITLES, strict=True))
    return f"<tr>{''.join(made)}</tr>"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


@functools.cache
def _style() -> str:
    return files("kbuild.serving.pages").joinpath("page.css").read_text("utf-8") + _OWN
