"""What locked packages say of themselves, read in the files that were downloaded for the lock.

Formats: PyPA's "Core metadata specifications" and "Binary distribution format"; conda's "Package specification"
(``info/index.json``).
"""

from __future__ import annotations

import email.parser
import lzma
import re
import zipfile
import zlib
from email.message import Message
from pathlib import Path

from packaging.utils import canonicalize_name, canonicalize_version

from kbuild.audit.lockview import LockEntry
from kbuild.digest import digest_file

_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_SPEC = re.compile(r"[\w.-]+")  # its name, as a file's own dependencies have it: neither channel nor url
_LARGEST = 4 << 20  # bytes


def locked_file(entry: LockEntry, downloads: Path | None) -> Path | None:
    """The locked file of a package, its digest compared, where it is in the cache."""
    if downloads is None or not entry.sha256:
        return None
    path = downloads / entry.sha256 / entry.filename
    return path if path.is_file() and digest_file(path).hex == entry.sha256 else None


def read_metadata(entry: LockEntry, downloads: Path | None) -> Message | None:
    """What the wheel says of itself, not what lies in it says: None, where it is of another name or version, or not
    here."""
    path = locked_file(entry, downloads)
    if path is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if _METADATA.fullmatch(each.filename)]
            fits = len(members) == 1 and members[0].file_size <= _LARGEST
            data = archive.read(members[0]) if fits else b""
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError):
        return None  # an sdist, or written in a way that pip does not read either
    metadata = email.parser.BytesParser().parsebytes(data, headersonly=True)
    named = canonicalize_name(str(metadata.get("Name") or "")), canonicalize_version(str(metadata.get("Version") or ""))
    return metadata if named == (entry.canonical, canonicalize_version(entry.version)) else None


def read_depends(entry: LockEntry, downloads: Path | None) -> tuple[str, ...] | None:
    """Names of what a conda package says that it needs, without virtual ones. None as of ``read_metadata``.

    A channel may have said otherwise of it later (conda-forge's "repodata patches").
    """
    path = locked_file(entry, downloads)
    if path is None:
        return None
    try:
        from rattler.exceptions import ExtractError, IoError
        from rattler.package import IndexJson
    except ImportError:  # it comes with what builds images
        return None
    try:
        index = IndexJson.from_package_archive(path)
    except (ExtractError, IoError, ValueError):  # or none of conda's: what a lock calls so may be a wheel
        return None
    if (index.name.normalized, str(index.version)) != (entry.name, entry.version):
        return None
    names = (_SPEC.match(each.strip()) for each in index.depends)
    return tuple(each[0].lower() for each in names if each is not None and not each[0].startswith("__"))
