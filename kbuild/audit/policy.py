"""``[tool.kbuild.audit]`` of pyproject.toml: what is allowed, and which findings are known and accepted until when."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from packaging.utils import canonicalize_name

from kbuild.audit.finding import SEVERITIES, Finding, Severity, Unchecked
from kbuild.errors import ConfigurationError

ServiceName = Literal["all", "pypi", "osv", "none"]
SERVICES: tuple[ServiceName, ...] = ("all", "pypi", "osv", "none")
_TEXTS = ("advisories", "fail-on", "osv-url", "pypi-url", "service")
_LISTS = ("allowed-channels", "allowed-indexes")
_KEYS = (*_LISTS, *_TEXTS, "ignore", "max-advisory-age")
_IGNORE_KEYS = ("id", "package", "reason", "expires")
UNCHECKED_ID = "unchecked"
"""The id by which an ignore accepts that a package cannot be checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ignore:
    """A finding that is accepted up to and including the day ``expires``; ``package`` None means any."""

    id: str
    package: str | None
    reason: str
    expires: datetime.date

    def covers(self, item: Finding | Unchecked) -> bool:
        """Whether it speaks of this finding, by its id or an alias, or of this unchecked package."""
        ids = {UNCHECKED_ID} if isinstance(item, Unchecked) else {item.id, *item.aliases}
        if self.id not in ids:
            return False
        name = item.where.partition(":")[2] or item.where
        return self.package is None or self.package == item.where or _same(self.package, name)


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


def parse_policy(table: Mapping[str, Any], *, source: str = "pyproject.toml") -> Policy:
    """Read the table; raises one ConfigurationError that names every fault."""
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
        faults.append("ignore has to be a list of tables ([[tool.kbuild.audit.ignore]])")
        listed = []
    ignores = [_ignore(each, f"ignore[{number}]", faults) for number, each in enumerate(listed)]
    if faults:
        raise ConfigurationError(
            f"[tool.kbuild.audit] in {source}: {'; '.join(faults)}", hint=f"known keys are {', '.join(sorted(_KEYS))}"
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
    )


def _ignore(value: Any, place: str, faults: list[str]) -> Ignore | None:
    if not isinstance(value, Mapping):
        faults.append(f"{place} has to be a table")
        return None
    found = [f"{place}.{key} is unknown" for key in value if key not in _IGNORE_KEYS]
    found += [
        f"{place}.{key} is missing or no text"
        for key in ("id", "reason")
        if not isinstance(value.get(key), str) or not value[key].strip()
    ]
    if not isinstance(value.get("package", ""), str):
        found.append(f"{place}.package has to be a text")
    expires = _date(value.get("expires"))
    if expires is None:
        found.append(f"{place}.expires has to be a date such as 2027-01-31")
    faults += found
    if found or expires is None:
        return None
    return Ignore(id=value["id"], package=value.get("package"), reason=value["reason"], expires=expires)


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
