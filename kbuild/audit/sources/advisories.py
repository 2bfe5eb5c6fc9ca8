"""An offline advisory database: OSV records from a file, a folder, an archive or a url.

Format: https://ossf.github.io/osv-schema/, one record a JSON or YAML file, or a JSON list of records.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import requests
from packaging.utils import canonicalize_name

from kbuild.audit.sources.osv import PYPI, PackageVersion, of_ecosystem
from kbuild.audit.sources.records import record_fault
from kbuild.bounded.answers import whole
from kbuild.errors import ConfigurationError, IndexUnavailable
from kbuild.files import expand_home
from kbuild.http import patient_session
from kbuild.untrusted import LARGEST, BrokenText, parse_json, parse_yaml, read_bytes, why
from kbuild.urls.credentials import without_credentials

_SUFFIXES = (".json", ".yaml", ".yml")
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
_TIMEOUT = 60.0
_LARGEST = 256 << 20  # bytes of a database; OSV's of PyPI has 30 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvisoryDatabase:
    """Records by ecosystem and package. ``date`` is the day of the newest change of a record, ``2026-11-22``."""

    name: str
    date: str | None
    size: int
    _by_package: Mapping[tuple[str, str], tuple[Mapping[str, Any], ...]]
    _ecosystems: frozenset[str]

    def records(self, package: PackageVersion) -> tuple[Mapping[str, Any], ...]:
        """The records that name this package, whatever version."""
        return self._by_package.get(_key(package.ecosystem, package.name), ())

    def named(self, id: str) -> tuple[Mapping[str, Any], ...]:
        """The records with this id or alias."""
        found = {
            str(record["id"]): record
            for records in self._by_package.values()
            for record in records
            if id in (record["id"], *(record.get("aliases") or ()))
        }
        return tuple(found.values())

    def knows_ecosystem(self, ecosystem: str) -> bool:
        """Whether it has any record of this ecosystem, and of the release where it names one (``Debian:12``)."""
        return any(of_ecosystem(each, ecosystem) for each in self._ecosystems)


def read_advisories(source: str) -> AdvisoryDatabase:
    """Read a database. Raises ConfigurationError when it is missing or no such thing, IndexUnavailable for a url that
    does not answer."""
    try:
        if urlsplit(source).scheme in ("http", "https"):
            members = _archive(urlsplit(source).path, _download(source), source)
        else:
            members = _local(expand_home(source), source)
        records = [record for name, data in members for record in _parse(name, data, source)]
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, BrokenText) as error:
        raise ConfigurationError(f"the advisories {without_credentials(source)} cannot be read: {error}") from error
    if not records:
        raise ConfigurationError(f"there is no advisory in {without_credentials(source)}", hint=_HINT)
    return _index(records, without_credentials(source))


_HINT = "--advisories takes OSV records: a JSON or YAML file, a folder, a .tar.gz or .zip of them, or the url of one"


def _index(records: Iterable[Mapping[str, Any]], source: str) -> AdvisoryDatabase:
    by_package: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    ecosystems: set[str] = set()
    size, newest = 0, ""
    for record in records:
        size += 1
        newest = max(newest, str(record.get("modified") or "")[:10])
        stated = [each["package"] for each in record.get("affected") or () if each.get("package")]
        ecosystems.update(each["ecosystem"] for each in stated)
        for key in {_key(each["ecosystem"], each["name"]) for each in stated}:
            by_package.setdefault(key, []).append(record)
    return AdvisoryDatabase(
        name=source,
        date=newest or None,
        size=size,
        _by_package={key: tuple(found) for key, found in by_package.items()},
        _ecosystems=frozenset(ecosystems),
    )


def _key(ecosystem: str, name: str) -> tuple[str, str]:
    ecosystem = ecosystem.partition(":")[0]
    return ecosystem, canonicalize_name(name) if ecosystem == PYPI else name


def _download(url: str) -> IO[bytes]:
    """The file, not in memory."""
    with contextlib.ExitStack() as unread:
        file = unread.enter_context(tempfile.TemporaryFile())
        try:
            with patient_session() as session, session.get(url, timeout=_TIMEOUT, stream=True) as response:
                response.raise_for_status()
                for piece in whole(response, _LARGEST):
                    file.write(piece)
        except requests.RequestException as error:
            raise IndexUnavailable(
                f"the advisories cannot be fetched: {without_credentials(str(error))}",
                hint="or give --advisories a file",
            ) from error
        unread.pop_all()
    file.seek(0)
    return file


def _local(path: Path, source: str) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES and each.is_file())
        return ((str(each), read_bytes(each, largest=_LARGEST)) for each in files)
    try:
        return _archive(path.name, io.BytesIO(read_bytes(path, largest=_LARGEST)), source)
    except (OSError, BrokenText) as error:
        raise ConfigurationError(f"the advisories {source} cannot be read: {why(error)}", hint=_HINT) from error


def _archive(name: str, data: IO[bytes], source: str) -> Iterator[tuple[str, bytes]]:
    """The members of an archive that may be records, or the one file itself, which is closed at the end."""
    with data:
        yield from _members(name, data, source)


def _members(name: str, data: IO[bytes], source: str) -> Iterator[tuple[str, bytes]]:
    if name.endswith(_TAR):
        yield from _tar(data)
    elif name.endswith(".zip"):
        with zipfile.ZipFile(data) as archive:
            for member in archive.namelist():
                if PurePosixPath(member).suffix in _SUFFIXES:
                    with archive.open(member) as file:
                        yield member, _bounded(file, member)
    elif PurePosixPath(name).suffix in _SUFFIXES:
        yield name, data.read()
    else:
        raise ConfigurationError(f"{without_credentials(source)} is not a file of advisories by its name", hint=_HINT)


def _tar(data: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=data) as archive:
        for member in archive:
            file = archive.extractfile(member) if PurePosixPath(member.name).suffix in _SUFFIXES else None
            if file is not None:
                yield member.name, _bounded(file, member.name)


def _bounded(file: IO[bytes], name: str) -> bytes:
    """A member's content; raises BrokenText for more than any record has: a few bytes can be packed gigabytes."""
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise BrokenText(f"{name} has more than {LARGEST >> 20} MiB")
    return data


def _parse(name: str, data: bytes, source: str) -> Iterator[Mapping[str, Any]]:
    try:
        value = parse_json(data) if name.endswith(".json") else parse_yaml(data)
    except BrokenText as error:
        raise ConfigurationError(
            f"{name} of the advisories {without_credentials(source)} is damaged: {error}"
        ) from error
    for record in value if isinstance(value, list) else [value]:
        # Databases carry other files too; a record has an id and says what it affects.
        if isinstance(record, Mapping) and isinstance(record.get("id"), str) and "modified" in record:
            fault = record_fault(record)
            if fault is not None:
                raise ConfigurationError(
                    f"{name} of the advisories {without_credentials(source)} is damaged: of {record['id']:.60} {fault}",
                    hint=_HINT,
                )
            yield record
