"""Conda packages, made by hand."""

from __future__ import annotations

import bz2
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import zstandard

from kbuild.digest import digest_bytes
from kbuild.platform import host_platform

HOST = host_platform()
VERSION = ".".join(map(str, sys.version_info[:3]))
SHORT = ".".join(map(str, sys.version_info[:2]))
BUILT_AT = "/builder/placeholder_placeholder_placeholder"


def make_interpreter(folder: Path) -> Path:
    """A conda package whose python is a script that runs this one, with a prefix to be replaced in a text file."""
    files = {
        f"bin/python{SHORT}": f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode(),
        f"lib/python{SHORT}/config.py": f"prefix = {BUILT_AT!r}\n".encode(),
        f"lib/python{SHORT}/__pycache__/config.old.pyc": b"stale",
    }
    paths = [
        {"_path": name, "path_type": "hardlink", "sha256": digest_bytes(data).hex, "size_in_bytes": len(data)}
        | ({"prefix_placeholder": BUILT_AT, "file_mode": "text"} if BUILT_AT.encode() in data else {})
        for name, data in files.items()
    ]
    index = {"name": "python", "version": VERSION, "build": "0", "build_number": 0, "depends": []}
    index |= {"subdir": HOST.conda_subdir, "timestamp": 1700000000000}
    files["info/index.json"] = json.dumps(index).encode()
    files["info/paths.json"] = json.dumps({"paths": paths, "paths_version": 1}).encode()
    files["info/files"] = "".join(f"{path['_path']}\n" for path in paths).encode()
    package = folder / f"python-{VERSION}-0.tar.bz2"
    with tarfile.open(package, "w:bz2") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o775 if name.startswith("bin/") else 0o600
            archive.addfile(member, io.BytesIO(data))
    return package


def make_conda(
    folder: Path,
    name: str,
    files: dict[str, str],
    paths: list[dict[str, object]] | None = None,
    *,
    members: Sequence[tuple[str, str | bytes]] = (),
    suffix: str = ".tar.bz2",
    **index: object,
) -> Path:
    """A conda package; ``members`` stand behind all others in the archive: a text is a symbolic link's target."""
    data = {path: text.encode() for path, text in files.items()}
    if paths is None:
        paths = [listed(path, size_in_bytes=len(each), sha256=digest_bytes(each).hex) for path, each in data.items()]
    index = {"name": name, "version": "1", "build": "0", "build_number": 0, "depends": []} | index
    index |= {"subdir": HOST.conda_subdir}
    data["info/index.json"] = json.dumps(index).encode()
    data["info/paths.json"] = paths_json(*paths)
    data["info/files"] = "".join(f"{path}\n" for path in files).encode()
    every = [*data.items(), *members]
    package = folder / f"{name}-1-0{suffix}"
    if suffix == ".tar.bz2":
        package.write_bytes(bz2.compress(make_tar(every)))
        return package
    parts = {"pkg": [], "info": []}  # type: dict[str, list[tuple[str, str | bytes]]]
    for path, each in every:
        parts["info" if path.startswith("info/") else "pkg"].append((path, each))
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        for part, content in parts.items():
            archive.writestr(f"{part}-{name}-1-0.tar.zst", zstandard.compress(make_tar(content)))
    return package


def make_tar(members: Sequence[tuple[str, str | bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path, each in members:
            member = tarfile.TarInfo(path)
            member.mode = 0o644
            if isinstance(each, str):
                member.type, member.linkname = tarfile.SYMTYPE, each
            else:
                member.size = len(each)
            archive.addfile(member, None if isinstance(each, str) else io.BytesIO(each))
    return file.getvalue()


def listed(path: str, kind: str = "hardlink", **more: object) -> dict[str, object]:
    return {"_path": path, "path_type": kind, **more}


def paths_json(*paths: dict[str, object]) -> bytes:
    return json.dumps({"paths": paths, "paths_version": 1}).encode()
