"""``audit`` of kbuild.yml, ``[tool.kbuild.audit]`` of pyproject.toml: what is allowed, what is accepted, till when."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, cast

from packaging.utils import canonicalize_name

from kbuild.audit.finding import KINDS, SEVERITIES, UNCHECKED_ID, UNFIXED_ID, Finding, Severity, Unchecked
from kbuild.audit.licences import LicencePolicy, parse_licence_policy
from kbuild.errors import ConfigurationError
from kbuild.progress import at_most

ServiceName = Literal["all", "pypi", "osv", "none"]
SERVICES: tuple[ServiceName, ...] = ("all", "pypi", "osv", "none")
_TEXTS = ("advisories", "fail-on", "osv-url", "pypi-url", "service")
_LISTS = ("allowed-channels", "allowed-indexes", "vex")
_KEYS = (*_LISTS, *_TEXTS, "allowed-pickles", "ignore", "licences", "max-advisory-age", "severities")
_SHOWN = 3
_PICKLED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.([A-Za-z_]\w*|\*)")
_IGNORE_KEYS = ("id", "package", "reason", "expires", "justification")
# Those of databases are of one: CVE-2024-1, GHSA-…, PYSEC-…, sonatype-…; kinds of findings are words.
_ADVISORY = re.compile(r"(?=.*\d)[A-Za-z][\w.:/-]*|[A-Z][\w.:-]*")
_IN_CAPITALS = re.compile(r"(?i:cve|pysec|ghsa|osv|dsa|dla|debian-cve|alpine-cve|ubuntu-cve|usn|mal)-(?=.*\d)")
JUSTIFICATIONS = (
    "component_not_present",
    "vulnerable_code_not_present",
    "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary",
    "inline_mitigations_already_exist",
)
"""Why a vulnerability that is there does no harm, in VEX's words (OpenVEX 0.2.0, "Status Justifications")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ignore:
    """What is accepted up to and including the day ``expires``; no ``packages`` means any. ``source`` is its place.

    ``justification`` says that it does no harm, and is one of ``JUSTIFICATIONS``.
    """

    id: str
    packages: tuple[str, ...]
    reason: str
    expires: datetime.date
    source: str = ""
    justification: str | None = None

    def __str__(self) -> str:
        """``CVE-1 of jinja2``."""
        if not self.packages:
            return self.id
        return f"{self.id} of {at_most(self.packages, _SHOWN)}"

    def covers(self, item: Finding | Unchecked) -> bool:
        """Whether it speaks of this finding, by its id or an alias, or of this unchecked package."""
        if isinstance(item, Unchecked):
            ids = {UNCHECKED_ID}
        else:
            ids = {item.id, *item.aliases, *([UNFIXED_ID] if item.unfixed else [])}
        if self.id not in ids:
            return False
        name = item.where.partition(":")[2] or item.where
        return not self.packages or any(each == item.where or _same(each, name) for each in self.packages)


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedPickle:
    """What pickles may name besides: ``name`` is a class in full, ``package.module.Class``, or ``package.*``."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """``allowed_channels`` and ``allowed_indexes`` are names or url prefixes, empty: what the lock itself names.

    ``service`` None: the user's index and OSV (``all``), or none where ``advisories`` are given. ``max_advisory_age``
    is in days.
    """

    allowed_channels: tuple[str, ...] = ()
    allowed_indexes: tuple[str, ...] = ()
    advisories: str | None = None
    service: ServiceName | None = None
    pypi_url: str | None = None
    osv_url: str | None = None
    fail_on: Severity = "low"
    max_advisory_age: int = 90
    ignores: tuple[Ignore, ...] = ()
    allowed_pickles: tuple[AllowedPickle, ...] = ()
    licences: LicencePolicy | None = None
    vex: tuple[str, ...] = ()
    """Paths of OpenVEX documents whose statements count."""
    severities: tuple[tuple[str, Severity], ...] = ()
    """How bad a kind of finding counts here, by its id."""

    def severity_of(self, finding: Finding) -> Severity:
        """How bad it counts: as stated for its id, else the worst stated for an alias, else as bad as it says."""
        stated = dict(self.severities)
        if finding.id in stated:
            return stated[finding.id]
        return max(
            (stated[each] for each in finding.aliases if each in stated), key=SEVERITIES.index, default=finding.severity
        )


def join_policies(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> Policy:
    """One policy of several places and their tables: each key of the first that has it, and the ignores of all.

    Raises ConfigurationError as ``parse_policy`` does.
    """
    parsed = [parse_policy(table, source=source) for source, table in tables]
    joined: dict[str, Any] = {}
    for _, table in reversed(tables):
        joined |= {key: value for key, value in table.items() if key != "ignore"}
    return replace(parse_policy(joined), ignores=tuple(ignore for policy in parsed for ignore in policy.ignores))


def parse_policy(table: Mapping[str, Any], *, source: str = "pyproject.toml, [tool.kbuild.audit]") -> Policy:
    """Read the table; raises one ConfigurationError that names the place and every fault."""
    faults = [f"{key} is unknown" for key in table if key not in _KEYS]
    for key in _TEXTS:
        if not isinstance(table.get(key, ""), str):
            faults.append(f"{key} has to be a text")
    for key in _LISTS:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            faults.append(f"{key} has to be a list of texts")
    if table.get("fail-on", "low") not in SEVERITIES:
        faults.append(f"fail-on has to be one of {', '.join(SEVERITIES)}")
    if table.get("service", "none") not in SERVICES:
        faults.append(f"service has to be one of {', '.join(SERVICES)}")
    age = table.get("max-advisory-age", 90)
    if not isinstance(age, int) or isinstance(age, bool) or age < 0:
        faults.append("max-advisory-age has to be a number of days")
    listed = table.get("ignore", [])
    if not isinstance(listed, list):
        faults.append("ignore has to be a list of tables")
        listed = []
    severities = table.get("severities", {})
    if not isinstance(severities, Mapping) or not all(each in SEVERITIES for each in severities.values()):
        faults.append(f"severities has to be a table of ids, each with one of {', '.join(SEVERITIES)}")
    else:
        faults += [f"severities.{fault}" for each in severities if (fault := _unknown(str(each), KINDS)) is not None]
    licences = parse_licence_policy(table.get("licences"), faults)
    pickles = _allowed_pickles(table.get("allowed-pickles", []), faults)
    ignores = [_ignore(each, f"ignore[{number}]", source, faults) for number, each in enumerate(listed)]
    if faults:
        raise ConfigurationError(
            f"{source}: {'; '.join(faults)}",
            hint=f"known keys are {', '.join(sorted(_KEYS))}; of an ignore {', '.join(_IGNORE_KEYS)}",
        )
    return Policy(
        allowed_channels=tuple(table.get("allowed-channels", ())),
        allowed_indexes=tuple(table.get("allowed-indexes", ())),
        advisories=table.get("advisories"),
        service=cast("ServiceName | None", table.get("service")),
        pypi_url=table.get("pypi-url"),
        osv_url=table.get("osv-url"),
        fail_on=cast(Severity, table.get("fail-on", "low")),
        max_advisory_age=age,
        ignores=tuple(ignore for ignore in ignores if ignore is not None),
        allowed_pickles=pickles,
        licences=licences,
        vex=tuple(table.get("vex", ())),
        severities=tuple(severities.items()),
    )


def _allowed_pickles(value: Any, faults: list[str]) -> tuple[AllowedPickle, ...]:
    found = []
    for number, each in enumerate(value if isinstance(value, list) else [value]):
        texts = [each.get(key) for key in ("name", "reason")] if isinstance(each, Mapping) else []
        if len(texts) != 2 or len(each) != 2 or not all(isinstance(text, str) and text.strip() for text in texts):
            faults.append(f"allowed-pickles[{number}] has to be a table of a name and a reason")
        elif not _PICKLED.fullmatch(str(texts[0])):
            faults.append(f"allowed-pickles[{number}].name has to be package.module.Class or package.*")
        else:
            found.append(AllowedPickle(name=str(texts[0]), reason=str(texts[1])))
    return tuple(found)


def _ignore(value: Any, place: str, source: str, faults: list[str]) -> Ignore | None:
    if not isinstance(value, Mapping):
        faults.append(f"{place} has to be a table")
        return None
    found = [f"{place}.{key} is unknown" for key in value if key not in _IGNORE_KEYS]
    found += [
        f"{place}.{key} is missing or no text"
        for key in ("id", "reason")
        if not isinstance(value.get(key), str) or not value[key].strip()
    ]
    if not found and (fault := _unknown(value["id"], KINDS | {UNCHECKED_ID, UNFIXED_ID})) is not None:
        found.append(f"{place}.id {fault}")
    named = value.get("package", [])
    packages = [named] if isinstance(named, str) else named
    if not isinstance(packages, list) or not all(isinstance(each, str) and each.strip() for each in packages):
        found.append(f"{place}.package has to be a name or a list of names")
    elif not packages and "package" in value:
        # An empty list would cover every package there is.
        found.append(f"{place}.package names nothing")
    justification = value.get("justification")
    if justification is not None and justification not in JUSTIFICATIONS:
        found.append(f"{place}.justification has to be one of {', '.join(JUSTIFICATIONS)}")
    expires = _date(value.get("expires"))
    if expires is None:
        found.append(f"{place}.expires has to be a date such as 2027-01-31")
    faults += found
    if found or expires is None:
        return None
    return Ignore(
        id=value["id"],
        packages=tuple(packages),
        reason=value["reason"],
        expires=expires,
        source=source,
        justification=justification,
    )


def _unknown(id: str, kinds: Set[str]) -> str | None:
    """Why no finding can have that id; None for a kind of finding, and for what may be an advisory's."""
    if id in kinds:
        return None
    capital = id[: match.end()].upper() + id[match.end() :] if (match := _IN_CAPITALS.match(id)) else id
    meant = [capital] if capital != id else get_close_matches(id, sorted(kinds), n=1, cutoff=0.8)
    if not meant and _ADVISORY.fullmatch(id):
        return None
    meant = meant or get_close_matches(id, sorted(kinds), n=1)
    return f"{id:.60} is unknown" + (f": did you mean {meant[0]}?" if meant else "")


def _date(value: Any) -> datetime.date | None:
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _same(one: str, other: str) -> bool:
    return canonicalize_name(one) == canonicalize_name(other)
