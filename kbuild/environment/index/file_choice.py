"""Which files of a release a solver may choose from: those that the target can use, as pip would judge them.

Formats: pip's docs, "Configuration" and "Hash-checking mode"; ``--only-binary`` and ``--prefer-binary`` of
"pip install"; PEP 503 for ``data-requires-python``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from kbuild.environment.index.wheel_tags import fits
from kbuild.platform import Platform

_SDISTS = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tar")
_ALL, _NONE = ":all:", ":none:"


@dataclass(frozen=True, kw_only=True, slots=True)
class BinaryChoice:
    """What pip's configuration says of source distributions: the normalised names that none is taken of, ``:all:``
    for all but ``but``, and whether a wheel of an older release is preferred to one."""

    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    prefer: bool = False

    def allows_sdist(self, name: str) -> bool:
        """Whether a source distribution of this package may be taken."""
        return name in self.but or not (_ALL in self.only or name in self.only)


def binary_choice(settings: Mapping[str, str]) -> BinaryChoice:
    """Of pip's settings, by name."""
    return BinaryChoice(
        only=_names(settings.get("only-binary", "")),
        but=tuple(name for name in _names(settings.get("no-binary", "")) if name != _ALL),
        prefer=settings.get("prefer-binary", "").lower() in ("1", "true", "yes", "on", "y", "t"),
    )


def _names(value: str) -> tuple[str, ...]:
    names = [each.strip() for each in value.replace(",", " ").split()]
    while _NONE in names:  # which takes back what stands before it
        names = names[names.index(_NONE) + 1 :]
    return tuple(sorted({name if name == _ALL else str(canonicalize_name(name)) for name in names}))


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChoice:
    """For one target: ``python`` (``3.11.7``), platform and C library."""

    python: str
    platform: Platform
    glibc: str
    binary: BinaryChoice = BinaryChoice()
    hashes: Mapping[str, Collection[str]] = field(default_factory=dict)

    @classmethod
    def of_places(cls, places: Mapping[str, Any]) -> FileChoice:
        """As ``PLACES`` of a solver's question holds it."""
        return cls(
            python=places["python"],
            platform=Platform.parse(places["platform"]),
            glibc=places["glibc"],
            binary=BinaryChoice(**places.get("binary") or {}),
            hashes=places.get("hashes") or {},
        )

    def is_candidate(self, name: str, filename: str, requires_python: str) -> bool:
        """Whether a file of this package can be used."""
        if filename.endswith(".whl"):
            if not fits(filename, self.python, self.platform, self.glibc):
                return False
        elif not (filename.endswith(_SDISTS) and self.binary.allows_sdist(name)):
            return False
        try:
            return not requires_python or SpecifierSet(requires_python).contains(self.python, prereleases=True)
        except InvalidSpecifier:
            return True

    def preferred(self, links: list[Any]) -> list[Any]:
        """The links of all releases of a package without its source distributions, where wheels are preferred."""
        wheels = [link for link in links if str(link.filename).endswith(".whl")]
        return wheels if self.binary.prefer and wheels else links

    def named(self, name: str, links: list[Any]) -> list[Any]:
        """The links of a release whose files the requirements name by hash; all where these name none of them."""
        wanted = self.hashes.get(canonicalize_name(name), ())
        return [link for link in links if link.hashes.get("sha256") in wanted] or links
