"""A lockfile as it is, faults included: what ``environment.lockfile`` refuses to read, audit has to show.

Format: conda-lock's unified lockfile, version 1 (see ``kbuild.environment.lockfile``); all keys that it has are in
conda-lock's ``conda_lock/lockfile/v1/models.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name

from kbuild.digest import Digest, digest_bytes
from kbuild.environment.lock_digests import is_as_written, locked_digest
from kbuild.environment.lockfile import INPUT_DIGEST_KEY, load_lock
from kbuild.errors import LockfileInvalid

_DOCUMENT = frozenset({"version", "metadata", "package"})
_METADATA = frozenset(
    {"content_hash", "channels", "platforms", "sources", "time_metadata", "git_metadata", "inputs_metadata"}
    | {"custom_metadata"}
)
_CHANNEL = frozenset({"url", "used_env_vars"})
_PACKAGE = frozenset(
    {"name", "version", "manager", "platform", "dependencies", "url", "hash", "source", "build", "category", "optional"}
)
_HASH = frozenset({"md5", "sha256"})


@dataclass(frozen=True, kw_only=True, slots=True)
class LockEntry:
    """One ``package[n]`` of category ``main``; what is missing or no text is None. ``asks`` are names of packages that
    it depends on, each with the versions that it allows."""

    place: str
    name: str
    version: str
    manager: str
    subdir: str
    url: str | None
    sha256: str | None
    asks: tuple[tuple[str, str], ...] = ()

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The names alone."""
        return tuple(name for name, _ in self.asks)

    @property
    def where(self) -> str:
        """``pip:jinja2``: what findings call it."""
        return f"{self.manager}:{self.name}"

    @property
    def filename(self) -> str:
        """The last part of the url, without query or fragment."""
        return (self.url or "").split("#", 1)[0].split("?", 1)[0].rsplit("/", 1)[-1]

    @property
    def canonical(self) -> str:
        """The name as Python's indexes compare names."""
        return canonicalize_name(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class LockView:
    """A lockfile's bytes and what they say, ``platforms`` those that it is to be for.

    ``content_matches`` is None where the lock records no content digest. ``unread`` are places of which the format
    knows nothing, as ``package[].purl``, each once."""

    content: bytes
    entries: tuple[LockEntry, ...]
    channels: tuple[str, ...]
    platforms: tuple[str, ...]
    input_digest: str | None
    content_matches: bool | None
    unread: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """The digest of the file's bytes, as ``Lockfile.digest``."""
        return digest_bytes(self.content)

    def is_named(self, digest: str) -> bool:
        """As ``Lockfile.is_named``."""
        rows: dict[str, list[tuple[str, str, str, str]]] = {}
        for each in self.entries:
            rows.setdefault(each.subdir, []).append((each.manager, each.name, each.version, each.sha256 or ""))
        return digest in {str(self.digest), *(str(locked_digest(subdir, found)) for subdir, found in rows.items())}

    def unique(self) -> tuple[LockEntry, ...]:
        """One entry for each manager, name and version, whatever the platforms."""
        return tuple({(entry.manager, entry.canonical, entry.version): entry for entry in self.entries}.values())


def view_lock(content: bytes, *, source: str) -> LockView:
    """Read a lockfile; raises LockfileInvalid only for what is no unified lockfile at all."""
    document = load_lock(content, source=source)
    packages = document.get("package") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or document.get("version") != 1 or not isinstance(packages, list):
        raise LockfileInvalid(f"{source} is not a unified lockfile of version 1")
    metadata = _mapping(document.get("metadata"))
    custom = _mapping(metadata.get("custom_metadata"))
    channels, platforms = metadata.get("channels"), metadata.get("platforms")
    entries = (_entry(entry, f"package[{number}]") for number, entry in enumerate(packages))
    return LockView(
        content=content,
        entries=tuple(entry for entry in entries if entry is not None),
        channels=tuple(str(_mapping(each).get("url", each)) for each in channels if each)
        if isinstance(channels, list)
        else (),
        platforms=tuple(map(str, platforms)) if isinstance(platforms, list) else (),
        input_digest=_text(custom.get(INPUT_DIGEST_KEY)),
        content_matches=is_as_written(metadata, packages),
        unread=tuple(dict.fromkeys(_unread(document, metadata, packages))),
    )


def _unread(document: Mapping[str, Any], metadata: Mapping[str, Any], packages: list[Any]) -> Iterator[str]:
    channels = metadata.get("channels")
    yield from _others(document, _DOCUMENT, "")
    yield from _others(metadata, _METADATA, "metadata.")
    for each in channels if isinstance(channels, list) else ():
        yield from _others(_mapping(each), _CHANNEL, "metadata.channels[].")
    for each in packages:
        if not isinstance(each, Mapping):
            yield "package[]"
            continue
        yield from _others(each, _PACKAGE, "package[].")
        yield from _others(_mapping(each.get("hash")), _HASH, "package[].hash.")
        if not isinstance(each.get("dependencies") or {}, Mapping):
            yield "package[].dependencies"


def _others(value: Mapping[Any, Any], known: frozenset[str], place: str) -> Iterator[str]:
    yield from (f"{place}{key!s:.60}" for key in value if key not in known)


def _entry(value: Any, place: str) -> LockEntry | None:
    entry = _mapping(value)
    if entry.get("category", "main") != "main":
        return None
    dependencies = _mapping(entry.get("dependencies"))
    return LockEntry(
        place=place,
        name=_text(entry.get("name")) or place,
        version=str(entry.get("version") or ""),
        manager=_text(entry.get("manager")) or "unknown",
        subdir=_text(entry.get("platform")) or "",
        url=_text(entry.get("url")),
        sha256=_text(_mapping(entry.get("hash")).get("sha256")),
        asks=tuple(sorted((str(name), str(asked or "")) for name, asked in dependencies.items())),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
