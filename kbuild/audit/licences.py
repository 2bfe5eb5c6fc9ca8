"""Licences as SPDX expressions: read from what packages state, and judged by what the policy allows and denies.

Sources of names: SPDX's list in ``license-expression``; PyPI's trove classifiers; Debian's machine-readable copyright
files (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/, "DEP-5"). What names several licences
("BSD License") stands for all of them: each has to be allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from license_expression import (
    ExpressionError,
    LicenseExpression,
    LicenseWithExceptionSymbol,
    Licensing,
    get_spdx_licensing,
)
from packaging.utils import canonicalize_name

_KEYS = ("allow", "deny", "packages")
# What stands for no licence of its own in a name.
_FILLING = re.compile(r"\b(the|licen[cs]e|licen[cs]ed|version|software|v(?=\d)|v\b|osi approved)\b|[(),\"']")
_GROUPING = re.compile(r"[(),\"']")
_OPERATOR = re.compile(r"\b(and|or|with)\b", re.IGNORECASE)
_NAMED = {
    "apache": "Apache-2.0",
    "apache apache 2.0": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache2.0": "Apache-2.0",
    "asl 2": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "bsd": "BSD-2-Clause AND BSD-3-Clause",
    "bsd 2 clause": "BSD-2-Clause",
    "2 clause bsd": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "3 clause bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "gnu affero general public v3": "AGPL-3.0-only",
    "gnu general public v2 gplv2": "GPL-2.0-only",
    "gnu general public v2 or later gplv2+": "GPL-2.0-or-later",
    "gnu general public v3 gplv3": "GPL-3.0-only",
    "gnu general public v3 or later gplv3+": "GPL-3.0-or-later",
    "gnu lesser general public v2 or later lgplv2+": "LGPL-2.0-or-later",
    "gnu lesser general public v3 lgplv3": "LGPL-3.0-only",
    "gnu lesser general public v3 or later lgplv3+": "LGPL-3.0-or-later",
    "gnu gplv3+": "GPL-3.0-or-later",
    "gplv2+": "GPL-2.0-or-later",
    "gplv3+": "GPL-3.0-or-later",
    "gplv2": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only",
    "isc iscl": "ISC",
    "lgplv3+": "LGPL-3.0-or-later",
    "lgplv3": "LGPL-3.0-only",
    "expat": "MIT",
    "mit expat": "MIT",
    "mozilla public 2.0 mpl 2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "python foundation": "PSF-2.0",
    "unlicense unlicense": "Unlicense",
}
_DEBIAN = {"expat": "MIT", "psf": "PSF-2.0", "cc0": "CC0-1.0", "artistic": "Artistic-1.0", "zlib": "Zlib"}
_GNU = re.compile(r"(?P<family>A?GPL|LGPL|GFDL|GPL)-(?P<version>\d+(?:\.\d+)?)(?P<later>\+?)", re.IGNORECASE)
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class LicencePolicy:
    """Licences by their SPDX ids, ``ID WITH EXCEPTION`` where only that is meant.

    No ``allow``: all that are not denied. ``packages`` are licences by canonical name that the user has read himself.
    """

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    packages: tuple[tuple[str, str], ...] = ()

    def judge(self, expression: str) -> bool | None:
        """Whether the expression can be kept; None where it names a licence that neither SPDX nor the policy knows.

        One alternative (OR) is enough, and it is enough for a denial that all of them are denied.
        """
        parsed = _parse(expression)
        return None if parsed is None else self._judge(parsed)

    def _judge(self, node: Any) -> bool | None:
        parts = [self._judge(each) for each in getattr(node, "args", ())]
        if not parts:
            return self._judge_one(node)
        enough = type(node).__name__ == "OR"
        if enough in parts:
            return enough
        return None if None in parts else not enough

    def _judge_one(self, symbol: Any) -> bool | None:
        names = [str(symbol.render())]
        if isinstance(symbol, LicenseWithExceptionSymbol):
            # An exception permits more, never less: what is said of the licence is true of it.
            names.append(str(symbol.license_symbol.key))
        for name in names:
            if name in self.deny:
                return False
            if name in self.allow:
                return True
        known = names[-1] in _licensing().known_symbols and not names[-1].startswith("LicenseRef-")
        return not self.allow if known else None


def parse_licence_policy(value: Any, faults: list[str]) -> LicencePolicy | None:
    """``licences`` of the policy; None where there is none. Faults are added to the list."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        faults.append("licences has to be a table")
        return None
    faults += [f"licences.{key} is unknown" for key in value if key not in _KEYS]
    named: dict[str, frozenset[str]] = {}
    for key in ("allow", "deny"):
        stated = value.get(key, [])
        if not isinstance(stated, list) or not all(isinstance(each, str) for each in stated):
            faults.append(f"licences.{key} has to be a list of SPDX expressions")
            continue
        for each in stated:
            named[key] = named.get(key, frozenset()) | _symbols(each, f"licences.{key}", faults)
    packages = value.get("packages", {})
    if not isinstance(packages, Mapping) or not all(
        isinstance(each, str) for pair in packages.items() for each in pair
    ):
        faults.append("licences.packages has to be a table of names and SPDX expressions")
        packages = {}
    for name, text in packages.items():
        _symbols(text, f"licences.packages.{name}", faults)
    return LicencePolicy(
        allow=named.get("allow", frozenset()),
        deny=named.get("deny", frozenset()),
        packages=tuple(sorted((canonicalize_name(name), text) for name, text in packages.items())),
    )


def _symbols(text: str, place: str, faults: list[str]) -> frozenset[str]:
    parsed = _parse(text)
    symbols = [] if parsed is None else _licensing().license_symbols(parsed, unique=True, decompose=False)
    unknown = (
        [key for key in _licensing().unknown_license_keys(parsed) if not key.startswith("LicenseRef-")]
        if parsed is not None
        else []
    )
    if not symbols or unknown:
        faults.append(f"{place}: {text!r} is not an SPDX expression")
    return frozenset(str(each.render()) for each in symbols)


def read_licence(text: str) -> str | None:
    """A licence as packages state it, as an SPDX expression; None where it cannot be told what is meant."""
    flat = " ".join(text.split())
    whole = _named(flat)
    if whole is not None:
        return whole
    found = [_named(each) for each in flat.split(" AND ")]
    # An alternative among them was one before the text was split, or is one no more: which, the text does not say.
    if not all(found) or any(each and " OR " in each for each in found):
        return None
    return " AND ".join(dict.fromkeys(each for each in found if each))


def _named(text: str) -> str | None:
    known = _known(text)
    if known is not None:
        return known
    if text.count("(") != text.count(")"):
        return None
    words = _FILLING.sub(" ", text.casefold()).replace("-", " ")
    flat = " ".join(words.split())
    # What groups the terms is gone with the filling words.
    grouped = _GROUPING.search(text) is not None and _OPERATOR.search(text) is not None
    return (None if grouped or not flat else _known(flat)) or _NAMED.get(flat)


def _known(text: str) -> str | None:
    """The expression, if its licences are SPDX's or references."""
    parsed = _parse(text)
    unknown = [] if parsed is None else _licensing().unknown_license_keys(parsed)
    if parsed is None or any(not each.startswith("LicenseRef-") for each in unknown):
        return None
    return str(parsed.render())


def read_debian_copyright(data: bytes) -> str | None:
    """The licences of all files of a package by its copyright file; None where that is only for people to read."""
    paragraphs = [_fields(each) for each in re.split(r"\n[ \t]*\n", data.decode("utf-8", errors="replace").strip())]
    if not paragraphs or "copyright-format" not in paragraphs[0].get(
        "format", paragraphs[0].get("format-specification", "")
    ):
        return None
    stated = [each["license"] for each in paragraphs if "files" in each and each.get("license")]
    if not stated or len(stated) < sum("files" in each for each in paragraphs):
        return None
    return " AND ".join(dict.fromkeys(f"({_debian(each)})" for each in stated))


def _fields(paragraph: str) -> dict[str, str]:
    """The first lines of its fields; what follows of a licence is its text."""
    lines = (line.partition(":") for line in paragraph.splitlines() if line[:1].strip() and ":" in line)
    return {name.strip().lower(): " ".join(value.split()) for name, _, value in lines}


def _debian(text: str) -> str:
    """A short licence name of DEP-5 with its ``and``, ``or`` and, binding least, a comma before them."""
    for joint, operator in ((", and ", "AND"), (", or ", "OR"), (" or ", "OR"), (" and ", "AND"), (" and/or ", "OR")):
        if joint in text.casefold():
            parts = re.split(re.escape(joint), text, flags=re.IGNORECASE)
            return f" {operator} ".join(f"({_debian(each)})" for each in parts)
    # An exception permits more, never less; Debian's have no ids.
    name = re.split(r" with ", text.strip(" ,"), flags=re.IGNORECASE)[0].strip()
    gnu = _GNU.fullmatch(name)
    if gnu is not None:
        version = gnu["version"] if "." in gnu["version"] else f"{gnu['version']}.0"
        return f"{gnu['family'].upper()}-{version}-{'or-later' if gnu['later'] else 'only'}"
    known = _DEBIAN.get(name.casefold(), name)
    return _known(known) or f"LicenseRef-debian-{_NOT_IN_IDS.sub('-', name).strip('-') or 'unnamed'}"


@cache
def _licensing() -> Licensing:
    """Read once: it takes a good while."""
    return get_spdx_licensing()


@cache
def _parse(text: str) -> LicenseExpression | None:
    try:
        # Strict: no licence stands for an exception, and no exception for a licence.
        return _licensing().parse(text, strict=True)
    except ExpressionError:
        return None
