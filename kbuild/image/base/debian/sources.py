"""Where Debian packages come from: apt's own sources, or a mirror that was configured.

Formats: sources.list(5), both the one-line and the deb822 style.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import BaseImageError
from kbuild.image.base.debian.suites import Suite, known_suites

_SCHEMES = ("http://", "https://", "file:/")
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?:\s+[^#]*)?(?:#.*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """One ``dists/<pocket>`` of one mirror. A pocket that is not ``required`` may be missing there."""

    uri: str
    pocket: str
    required: bool
    keyring: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class AptSource:
    """One uri and pocket of apt's configuration."""

    uri: str
    pocket: str
    signed_by: Path | None


def find_archives(suite: Suite, *, mirror: str, apt: Path = Path("/etc/apt")) -> tuple[Archive, ...]:
    """The archives of a suite with its updates and security updates, the main one first.

    ``mirror`` is what the user set: a uri, or two with a space between, the second for security updates of a
    distribution that keeps them apart; empty means apt's sources in the directory ``apt``. A source there for
    another suite of the same distribution serves as well. Raises BaseImageError when nothing fits.
    """
    if mirror:
        return _from_mirror(suite, mirror)
    found: dict[tuple[str, str], Archive] = {}
    names = {s.name for s in known_suites() if s.distribution == suite.distribution}
    sources = list(read_apt_sources(apt))
    # Sources that name the suite itself come before those that are only for a sister.
    for own in (True, False):
        for source in sources:
            base, dash, kind = source.pocket.partition("-")
            pocket = f"{suite.name}{dash}{kind}"
            if base in names and kind in ("", "updates", "security") and (base == suite.name) is own:
                if not own and any(archive.pocket == pocket for archive in found.values()):
                    continue
                keyring = source.signed_by or suite.keyring
                archive = Archive(uri=source.uri, pocket=pocket, required=not kind, keyring=keyring)
                found.setdefault((source.uri, pocket), archive)
    archives = sorted(found.values(), key=lambda archive: not archive.required)
    if not archives or not archives[0].required:
        name = suite.distribution
        raise BaseImageError(
            f"no mirror is known for {suite}: apt has no source of {name} here",
            hint=f"set KBUILD_{name.upper()}_MIRROR or {name}-mirror in [tool.kbuild] to a {name} archive, "
            "or give --base an image",
        )
    return tuple(archives)


def read_apt_sources(apt: Path) -> Iterator[AptSource]:
    """Every enabled ``deb`` source whose uri kbuild can read, in apt's order; broken lines are left to apt."""
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        if path.is_file():
            for line in path.read_text("utf-8", "replace").splitlines():
                match = _LINE.fullmatch(line.strip())
                if match is not None and match["uri"].startswith(_SCHEMES):
                    signed_by = re.search(r"(?i)signed-by=(/[^\s,]+)", match["options"] or "")
                    yield _source(match["uri"], match["suite"], signed_by and signed_by[1])
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text("utf-8", "replace")):
            fields = read_fields(stanza)
            if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
                continue
            for uri in fields.get("uris", "").split():
                for pocket in fields.get("suites", "").split():
                    if uri.startswith(_SCHEMES):
                        yield _source(uri, pocket, fields.get("signed-by", ""))


def read_fields(stanza: str) -> dict[str, str]:
    """The fields of one deb822 paragraph by their lower-case names; continuation lines are kept with newlines."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t"):
            if name:
                fields[name] += f"\n{line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip()
    return fields


def _source(uri: str, pocket: str, signed_by: str | None) -> AptSource:
    # A Signed-By that is no single path (a key's text, a fingerprint) leaves the distribution's own keyring.
    path = signed_by if signed_by and re.fullmatch(r"/\S+", signed_by) else None
    return AptSource(uri=uri.rstrip("/"), pocket=pocket.rstrip("/"), signed_by=Path(path) if path else None)


def _from_mirror(suite: Suite, mirror: str) -> tuple[Archive, ...]:
    uris = [uri.rstrip("/") for uri in mirror.split()]
    if not 1 <= len(uris) <= 2 or not all(uri.startswith(_SCHEMES) for uri in uris):
        raise BaseImageError(
            f"{mirror!r} is not a mirror of {suite.distribution}",
            hint="give one http, https or file uri, and after a space that of the security archive if there is one",
        )
    pockets = [(uris[0], suite.name, True), (uris[0], f"{suite.name}-updates", False)]
    if len(uris) == 2 or not suite.separate_security:
        pockets.append((uris[-1], f"{suite.name}-security", False))
    return tuple(
        Archive(uri=uri, pocket=pocket, required=required, keyring=suite.keyring) for uri, pocket, required in pockets
    )
