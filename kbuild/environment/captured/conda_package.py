"""Writing a conda package and the channel that offers it, the same bytes for the same files.

Formats: conda's docs "Package specification" (``info/index.json``, ``info/paths.json``), "The .conda file format"
(a stored zip of ``metadata.json``, ``pkg-*.tar.zst`` and ``info-*.tar.zst``) and ``repodata.json``.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from kbuild.digest import Digest, canonical_json, digest_bytes, digest_file, digest_json

# One thread and one level: the bytes must not depend on the number of processors.
_ZSTD_LEVEL = 9
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedFile:
    """A file or symbolic link at ``path`` (relative, with slashes), read from ``source``.

    ``placeholder`` is text in the file that stands for the prefix and that installers replace.
    """

    path: str
    source: Path
    placeholder: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenPackage:
    """A package on disk and its record in ``repodata.json``."""

    path: Path
    record: Mapping[str, Any]

    @property
    def sha256(self) -> Digest:
        """The digest of the package file."""
        return Digest(self.record["sha256"])


def write_package(
    files: Sequence[PackagedFile], *, index: Mapping[str, Any], build: Callable[[Digest], str], folder: Path
) -> WrittenPackage:
    """Write ``NAME-VERSION-BUILD.conda`` into ``folder``.

    ``index`` is ``info/index.json`` without ``build``, which ``build`` makes from the digest of the content. File
    times, owners and the umask do not enter the bytes. Raises OSError.
    """
    ordered = sorted(files, key=lambda file: file.path)
    paths = [_paths_entry(file) for file in ordered]
    index = {**index, "build": build(digest_json([paths, dict(index)])), "build_number": 0}
    stem = f"{index['name']}-{index['version']}-{index['build']}"
    info = {
        "info/index.json": canonical_json(index),
        "info/paths.json": canonical_json({"paths": paths, "paths_version": 1}),
        "info/files": "".join(f"{file.path}\n" for file in ordered).encode(),
    }
    target = folder / f"{stem}.conda"
    with _replacing(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_member("metadata.json"), "w") as member:
            member.write(canonical_json({"conda_pkg_format_version": 2}))
        with archive.open(_member(f"pkg-{stem}.tar.zst"), "w", force_zip64=True) as member, _Tar(member) as tar:
            for file in ordered:
                _add_file(tar, file)
        with archive.open(_member(f"info-{stem}.tar.zst"), "w") as member, _Tar(member) as tar:
            for name, data in sorted(info.items()):
                tar.addfile(_tar_entry(name, size=len(data)), io.BytesIO(data))
    record = {
        **index,
        "md5": _md5(target),
        "sha256": digest_file(target).hex,
        "size": target.stat().st_size,
    }
    return WrittenPackage(path=target, record=record)


def write_repodata(channel: Path, package: WrittenPackage) -> None:
    """Write the ``repodata.json`` of the package's subdir and of ``noarch``, offering this package alone.

    Raises OSError.
    """
    subdir = package.record["subdir"]
    for name, packages in ((subdir, {package.path.name: dict(package.record)}), ("noarch", {})):
        folder = channel / name
        folder.mkdir(parents=True, exist_ok=True)
        repodata = {"info": {"subdir": name}, "packages": {}, "packages.conda": packages, "repodata_version": 1}
        with _replacing(folder / "repodata.json") as partial:
            partial.write_bytes(canonical_json(repodata))


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A path of this process alone, that becomes ``target`` when all went well."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _paths_entry(file: PackagedFile) -> dict[str, Any]:
    if file.source.is_symlink():
        return {"_path": file.path, "path_type": "softlink", "sha256": digest_bytes(b"").hex, "size_in_bytes": 0}
    entry = {
        "_path": file.path,
        "path_type": "hardlink",
        "sha256": digest_file(file.source).hex,
        "size_in_bytes": file.source.stat().st_size,
    }
    if file.placeholder is not None:
        entry |= {"file_mode": "text", "prefix_placeholder": file.placeholder}
    return entry


def _add_file(tar: tarfile.TarFile, file: PackagedFile) -> None:
    if file.source.is_symlink():
        entry = _tar_entry(file.path, mode=0o777)
        entry.type = tarfile.SYMTYPE
        entry.linkname = str(file.source.readlink())
        tar.addfile(entry)
        return
    status = file.source.stat()
    with file.source.open("rb") as content:
        tar.addfile(
            _tar_entry(file.path, size=status.st_size, mode=0o755 if status.st_mode & 0o100 else 0o644), content
        )


def _tar_entry(name: str, *, size: int = 0, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = mode
    return entry


class _Tar:
    """A tar inside a zstd frame inside an open file; closes both, leaves the file open."""

    def __init__(self, file: IO[bytes]) -> None:
        self._frame = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(file, closefd=False)
        self._archive = tarfile.TarFile(fileobj=self._frame, mode="w", format=tarfile.PAX_FORMAT)

    def __enter__(self) -> tarfile.TarFile:
        return self._archive

    def __exit__(self, *_: object) -> None:
        self._archive.close()
        self._frame.close()  # type: ignore[no-untyped-call]


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _ZIP_EPOCH)
    member.create_system = 3
    member.external_attr = 0o644 << 16
    return member


def _md5(path: Path) -> str:
    # conda-lock refuses conda packages without an md5; the sha256 is what kbuild checks.
    state = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()
