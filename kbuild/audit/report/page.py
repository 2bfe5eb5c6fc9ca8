"""The report as one HTML page that loads nothing: models by findings, how each vulnerable package came in, a filter.

The template escapes all that stands in it, and it sees plain texts only.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kbuild.audit.finding import SEVERITIES
from kbuild.audit.report.plain import plain_value
from kbuild.audit.report.report import AuditReport
from kbuild.audit.report.text import grouped, noted
from kbuild.audit.sizes.treemap import draw
from kbuild.audit.sizes.values import WORDS, readable

_TEMPLATE = "page.html.j2"
_UNDER_HEADING = re.compile(r"^\((.*?)\):")
_Places = Mapping[tuple[str, str], Sequence[str]]


def page(
    audits: Sequence[tuple[AuditReport, Mapping[str, Any]]], verdict: str, failed: Sequence[tuple[str, str]] = ()
) -> str:
    """Reports, each with its CycloneDX document, which has the dependencies; ``failed`` could not be audited."""
    environment = Environment(
        loader=PackageLoader("kbuild.audit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    models = [_model(*each, f"image{number}") for number, each in enumerate(audits, 1)]
    values = {
        "verdict": verdict,
        "date": max((str(report.date) for report, _ in audits), default=""),
        "severities": list(reversed(SEVERITIES)),
        "size_names": sorted({name for model in models for name in model["sizes"]}),
        "models": models,
        "failed": failed,
    }
    return environment.get_template(_TEMPLATE).render(plain_value(values)) + "\n"


def _model(report: AuditReport, sbom: Mapping[str, Any], mark: str) -> dict[str, Any]:
    paths = _paths(sbom)
    rows = [
        {
            "id": each.id,
            "check": each.check,
            "severity": each.severity,
            "aliases": each.aliases,
            "where": places,
            "evidence": each.evidence,
            "remedy": each.remedy,
            "path": paths.get((each.where, each.version or ""), ()) if len(places) == 1 else (),
        }
        for each, places in grouped(report.findings)
    ]
    unchecked, accepted, others = noted(report)
    return {
        "reference": report.reference,
        "verdict": report.verdict,
        "counts": report.counts(),
        "digests": report.digests,
        "checks": report.checks,
        "sizes": {name: f"{readable(size)}{' unpacked' * (name == 'image')}" for name, size in report.sizes},
        "rows": rows,
        "image": _image(report, mark),
        "unchecked": [_UNDER_HEADING.sub(r"\1:", each) for each in unchecked],
        "unchecked_number": len(report.unchecked),
        "accepted": accepted,
        "notes": others,
    }


def _paths(sbom: Mapping[str, Any]) -> _Places:
    """From the model to each package by the fewest steps, by what findings call it and its version."""
    components = {each["bom-ref"]: each for each in sbom.get("components") or ()}
    needs = {each["ref"]: each.get("dependsOn") or () for each in sbom.get("dependencies") or ()}
    root = sbom["metadata"]["component"]
    found: dict[str, tuple[str, ...]] = {root["bom-ref"]: (str(root["name"]),)}
    waiting = deque([root["bom-ref"]])
    while waiting:
        here = waiting.popleft()
        for each in needs.get(here, ()):
            if each not in found and each in components:
                component = components[each]
                found[each] = (*found[here], f"{component['name']} {component['version']}")
                waiting.append(each)
    places = {}
    for reference, path in found.items():
        # References are as "pip/linux-64/six@1.17.0", "base/deb/glibc@2.36"; what needs what in a base nobody has said.
        manager = reference.partition("/")[0]
        if reference in components and manager != "base":
            places[f"{manager}:{components[reference]['name']}", str(components[reference]["version"])] = path
    return places


def _image(report: AuditReport, mark: str) -> dict[str, Any] | None:
    """How large the image's packages are, as a picture and as the table beside it."""
    sizes = report.image_sizes
    if sizes is None or not sizes.size:
        return None
    places = sizes.places()
    rows = [
        {
            "title": each.title,
            "kind": WORDS[each.kind],
            "size": readable(each.size),
            "share": f"{100 * each.size / sizes.size:.1f} %",
            "layers": ", ".join(places[each.key]),
        }
        for each in sizes.packages
    ]
    return {
        "picture": draw(sizes, name=report.reference, mark=mark),  # escapes what it is given
        "rows": rows,
        "layers": [
            {"name": each.name, "packed": readable(each.packed), "size": readable(each.size)} for each in sizes.layers
        ],
    }
