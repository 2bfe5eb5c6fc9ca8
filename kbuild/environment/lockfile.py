"""Lockfile: conda-lock's unified format (version 1) as a value.

Format: https://conda.github.io/conda-lock/output/#unified-lockfile and conda-lock's
``conda_lock/lockfile/v1/models.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from kbuild.digest import Digest, digest_bytes
from kbuild.environment.lock_digests import locked_digest
from kbuild.errors import LockfileInvalid, PlatformError
from kbuild.platform import Platform
from kbuild.untrusted import BrokenText, parse_yaml, read_bytes, why
from kbuild.urls.credentials import LOCAL_CHANNEL, foreign_variables, without_credentials

INPUT_DIGEST_KEY = "kbuild_input_digest"
"""Where ``metadata.custom_metadata`` of a lockfile records the digest of what it was made from."""

CHANNEL_VARIABLE = LOCAL_CHANNEL
"""Names the url of the local channel in the urls of captured packages: ``$KBUILD_CHANNEL/linux-64/python-….conda``."""

LOCAL_URLS = (f"${CHANNEL_VARIABLE}/", f"${{{CHANNEL_VARIABLE}}}/")
"""How urls of its packages begin; kbuild writes the first, the second is another spelling."""

RUN_FOLDER = "kbuild"
"""Where a run's artifacts keep what kbuild made for it."""

PACKAGES = "packages"
"""Below it: the captured packages and built wheels that the lock names, as they lie in the local channel."""

SIDE_FILE = "built-wheels.json"
"""Beside a lock: what was built from source distributions for it, and with what (see ``built_wheels``)."""

SDIST_MARK = "#sdist-sha256="
"""Stands in the url of a built wheel before the digest of the source distribution that it was built from."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_URL = re.compile(r"(https?|file)://\S+|\$\{?[A-Za-z_]\w*\}?/\S+")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class LockedPackage:
    """One package of one platform, by url and sha256. ``url`` may name environment variables (``$KBUILD_CHANNEL``)."""

    name: str
    version: str
    manager: Literal["conda", "pip"]
    platform: Platform
    url: str
    sha256: str
    dependencies: tuple[tuple[str, str], ...] = ()

    @property
    def filename(self) -> str:
        """The last part of the url, without query or fragment."""
        return self.url.split("#", 1)[0].split("?", 1)[0].rsplit("/", 1)[-1]

    @property
    def is_captured(self) -> bool:
        """Whether no public channel or index has it: a captured interpreter or a built wheel, of the local channel."""
        return self.url.startswith(f"${CHANNEL_VARIABLE}/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lockfile:
    """A parsed lockfile together with its exact bytes."""

    content: bytes
    packages: tuple[LockedPackage, ...]
    platforms: tuple[Platform, ...]
    channels: tuple[str, ...]
    input_digest: Digest | None

    @property
    def digest(self) -> Digest:
        """The digest of the file's bytes, its urls among them: of this very lock, by which it is found again."""
        return digest_bytes(self.content)

    def packages_digest(self, platform: Platform) -> Digest:
        """What images record: ``locked_digest`` of one platform's packages."""
        rows = [(p.manager, p.name, p.version, p.sha256) for p in self.packages if p.platform == platform]
        return locked_digest(platform.conda_subdir, rows)

    def is_named(self, digest: str | None) -> bool:
        """Whether this is what an image or a tag records: its packages, or the file as images of before had it."""
        return digest in {str(self.digest), *(str(self.packages_digest(each)) for each in self.platforms)}

    def for_platform(self, platform: Platform) -> tuple[LockedPackage, ...]:
        """The packages of one platform, sorted by manager and name."""
        return tuple(sorted((p for p in self.packages if p.platform == platform), key=lambda p: (p.manager, p.name)))

    def wheels_for(self, platform: Platform) -> tuple[LockedPackage, ...]:
        """Those of them that pip installs."""
        return tuple(package for package in self.for_platform(platform) if package.manager == "pip")


def read_lockfile(path: Path) -> Lockfile:
    """Read and parse a lockfile; raises LockfileInvalid, also where the file cannot be read."""
    return parse_lockfile(lock_bytes(path), source=str(path))


def lock_bytes(path: Path, *, source: str | None = None) -> bytes:
    """The content of a lockfile, ``source`` for messages; raises LockfileInvalid where it cannot be read."""
    try:
        return read_bytes(path)
    except (OSError, BrokenText) as error:
        raise LockfileInvalid(f"cannot read {source or f'the lockfile {path}'}: {why(error)}") from error


def load_lock(content: bytes, *, source: str) -> Any:
    """The value of a lock's YAML; raises LockfileInvalid."""
    try:
        return parse_yaml(content)
    except BrokenText as error:
        raise LockfileInvalid(f"{source} is not YAML: {error}") from error


def parse_lockfile(content: bytes, *, source: str) -> Lockfile:
    """Parse a unified lockfile (version 1).

    Packages of other categories than ``main``, and of platforms that no image is built for, are left out. Raises one
    LockfileInvalid that names every fault by its path, as ``package[3].hash.sha256``.
    """
    document = load_lock(content, source=source)
    faults: list[str] = []
    if not isinstance(document, Mapping):
        raise LockfileInvalid(f"{source} is not a lockfile: not a mapping")
    if document.get("version") != 1:
        raise LockfileInvalid(f"{source}: version is {document.get('version')!r}, only 1 is known")
    metadata = _mapping(document.get("metadata"), "metadata", faults)
    platforms = _platforms(metadata.get("platforms"), faults)
    packages = [
        package
        for number, entry in enumerate(_sequence(document.get("package"), "package", faults))
        if (package := _package(entry, f"package[{number}]", faults)) is not None
    ]
    _check_unique(packages, faults)
    lockfile = Lockfile(
        content=content,
        packages=tuple(sorted(packages)),
        platforms=platforms,
        channels=_channels(metadata.get("channels"), faults),
        input_digest=_input_digest(metadata, faults),
    )
    if faults:
        raise LockfileInvalid(f"{source}: {'; '.join(faults)}", hint="make the lock again with kbuild lock")
    return lockfile


def conda_build(package: LockedPackage) -> str:
    """The build string of a conda package, which the last part of its file's name is (conda's docs, "Packages")."""
    return package.filename.removesuffix(".conda").removesuffix(".tar.bz2").rpartition("-")[2]


def _package(entry: Any, path: str, faults: list[str]) -> LockedPackage | None:
    entry = _mapping(entry, path, faults)
    if not entry or entry.get("category", "main") != "main":
        return None
    platform = _platform(entry.get("platform"), f"{path}.platform", faults)
    manager = entry.get("manager")
    if manager not in ("conda", "pip"):
        faults.append(f"{path}.manager is {manager!r}, neither conda nor pip")
    dependencies = _mapping(entry.get("dependencies") or {}, f"{path}.dependencies", faults)
    package = LockedPackage(
        name=_text(entry.get("name"), f"{path}.name", faults),
        version=_text(entry.get("version"), f"{path}.version", faults),
        manager="conda" if manager == "conda" else "pip",
        platform=platform or Platform("linux", "amd64"),
        url=_url(entry.get("url"), f"{path}.url", faults),
        sha256=_text(
            _mapping(entry.get("hash"), f"{path}.hash", faults).get("sha256"), f"{path}.hash.sha256", faults, _SHA256
        ),
        dependencies=tuple(sorted((str(name), str(version or "")) for name, version in dependencies.items())),
    )
    return package if platform is not None else None


def _text(value: Any, path: str, faults: list[str], pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or not value:
        faults.append(f"{path} is missing" if value is None else f"{path} is not text: {value!r}")
        return ""
    if pattern is not None and not pattern.fullmatch(value):
        faults.append(f"{path} is not what it should be: {value!r}")
    return value


def _url(value: Any, path: str, faults: list[str]) -> str:
    if isinstance(value, str) and value and not _URL.fullmatch(value):
        faults.append(f"{path} is not what it should be: {without_credentials(repr(value))}")
        return ""
    url = _text(value, path, faults)
    if ".." in unquote(url).replace("\\", "/").split("/"):
        faults.append(f"{path} leads out of its place: {without_credentials(url)}")
        return ""
    foreign = foreign_variables(url)
    if foreign:
        faults.append(
            f"{path} holds {', '.join(foreign)}: no variable but one of its own host's credentials is put there"
        )
    return url


def _mapping(value: Any, path: str, faults: list[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        faults.append(f"{path} is missing" if value is None else f"{path} is not a mapping")
        return {}
    return value


def _sequence(value: Any, path: str, faults: list[str]) -> Sequence[Any]:
    if not isinstance(value, list):
        faults.append(f"{path} is missing" if value is None else f"{path} is not a list")
        return []
    return value


def _platform(value: Any, path: str, faults: list[str]) -> Platform | None:
    subdir = _text(value, path, faults)
    try:
        return Platform.from_conda_subdir(subdir)
    except PlatformError:
        return None  # a lock may cover systems on which people only work


def _platforms(value: Any, faults: list[str]) -> tuple[Platform, ...]:
    names = _sequence(value, "metadata.platforms", faults)
    known = (_platform(name, f"metadata.platforms[{number}]", faults) for number, name in enumerate(names))
    return tuple(sorted({platform for platform in known if platform is not None}))


def _channels(value: Any, faults: list[str]) -> tuple[str, ...]:
    entries = _sequence(value, "metadata.channels", faults)
    return tuple(
        _text(entry.get("url") if isinstance(entry, Mapping) else entry, f"metadata.channels[{number}].url", faults)
        for number, entry in enumerate(entries)
    )


def _input_digest(metadata: Mapping[str, Any], faults: list[str]) -> Digest | None:
    custom = metadata.get("custom_metadata") or {}
    recorded = custom.get(INPUT_DIGEST_KEY) if isinstance(custom, Mapping) else None
    if recorded is None:
        return None  # made by conda-lock itself, or by another tool
    try:
        return Digest.parse(str(recorded))
    except ValueError as error:
        faults.append(f"metadata.custom_metadata.{INPUT_DIGEST_KEY} is {error}")
        return None


def _check_unique(packages: Sequence[LockedPackage], faults: list[str]) -> None:
    seen: set[tuple[str, str, Platform]] = set()
    for package in packages:
        key = (package.manager, package.name, package.platform)
        if key in seen:
            faults.append(f"package: {package.name} of {package.manager} is there twice for {package.platform}")
        seen.add(key)
