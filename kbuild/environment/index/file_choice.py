"""Which files of a release a solver may choose from: those that the target can use, as pip would judge them.

Formats: pip's docs, "Configuration" and "Hash-checking mode"; ``--only-binary``, ``--no-binary``, ``--prefer-binary``
and ``--pre`` of "pip install"; PEP 503 for ``data-requires-python``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from kbuild.environment.index.wheel_tags import fits
from kbuild.platform import Platform

_SDISTS = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tar")
_ALL, _NONE = ":all:", ":none:"
_ON = ("1", "true", "yes", "on", "y", "t")


@dataclass(frozen=True, kw_only=True, slots=True)
class BinaryChoice:
    """What pip's options say of the files to take: the normalised names that no source distribution is taken of,
    ``:all:`` for all but ``but``, which are the names that no wheel is taken of; whether a wheel of an older release is
    preferred to a source distribution; and whether pre-releases are taken as others are.

    ``every`` where wheels of all packages were refused.
    """

    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    prefer: bool = False
    pre: bool = False
    every: bool = False

    def allows_sdist(self, name: str) -> bool:
        """Whether a source distribution of this package may be taken."""
        return name in self.but or not (_ALL in self.only or name in self.only)

    def allows_wheel(self, name: str) -> bool:
        """Whether a wheel of this package may be taken."""
        return name not in self.but

    def told(self, options: Iterable[tuple[str, str]]) -> BinaryChoice:
        """With these options, of which a later one counts for more."""
        found = self
        for option, value in options:
            if option == "pre":
                found = replace(found, pre=True)
            elif option == "prefer-binary":
                found = replace(found, prefer=True)
            elif option in ("only-binary", "no-binary"):
                found = found._formats(value, wheels=option == "only-binary")
        return found

    def _formats(self, value: str, *, wheels: bool) -> BinaryChoice:
        names = [each.strip() for each in value.replace(",", " ").split()]
        mine, other = set(self.only if wheels else self.but), set(self.but if wheels else self.only)
        every = self.every
        for each in names:
            if each == _NONE:  # takes back what stands before it
                mine.clear()
                every = every and wheels
            elif each == _ALL and not wheels:
                every = True
            else:
                name = _ALL if each == _ALL else str(canonicalize_name(each))
                mine.add(name)
                if name == _ALL:
                    other.clear()
                other.discard(name)
        only, but = (mine, other) if wheels else (other, mine)
        return replace(self, only=tuple(sorted(only)), but=tuple(sorted(but)), every=every)


def binary_choice(settings: Mapping[str, str]) -> BinaryChoice:
    """Of pip's settings, by name."""
    formats = [(name, settings[name]) for name in ("only-binary", "no-binary") if settings.get(name)]
    switches = [(name, "") for name in ("prefer-binary", "pre") if settings.get(name, "").lower() in _ON]
    return BinaryChoice().told([*formats, *switches])


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChoice:
    """For one target: ``python`` (``3.11.7``), platform and C library. ``built`` are urls of wheels that were built
    here of source distributions."""

    python: str
    platform: Platform
    glibc: str
    binary: BinaryChoice = BinaryChoice()
    hashes: Mapping[str, Collection[str]] = field(default_factory=dict)
    built: frozenset[str] = frozenset()

    @classmethod
    def of_places(cls, places: Mapping[str, Any]) -> FileChoice:
        """As ``PLACES`` of a solver's question holds it."""
        return cls(
            python=places["python"],
            platform=Platform.parse(places["platform"]),
            glibc=places["glibc"],
            binary=BinaryChoice(**places.get("binary") or {}),
            hashes=places.get("hashes") or {},
            built=frozenset(places.get("built") or ()),
        )

    def is_candidate(self, name: str, filename: str, requires_python: str, url: str = "") -> bool:
        """Whether a file of this package, at ``url``, can be used."""
        if filename.endswith(".whl"):
            if not fits(filename, self.python, self.platform, self.glibc):
                return False
            if not (self.binary.allows_wheel(name) or url in self.built):
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
