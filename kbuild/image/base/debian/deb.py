"""Reading a .deb file and laying several of them out as one root file system, without root, dpkg or a shell.

Formats: deb(5) and ar; Debian policy for the file system; os-release(5). What maintainer scripts would have done
is written by hand.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import zstandard

from kbuild.errors import BaseImageError

RECIPE = 1
"""Changes whenever the same packages would be laid out differently."""

STICKY = frozenset({"tmp", "var/tmp"})
"""Directories with mode 1777."""

Content = bytes | str | None
"""A file's bytes, a link's target, or None for a directory."""

_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
_MERGED = re.compile(r"^(bin|sbin|lib|lib32|lib64|libx32)(?=/|$)")
_DROPPED = tuple(f"usr/share/{name}/" for name in ("doc", "man", "locale", "lintian", "doc-base", "bug", "info", "gdb"))
_EMPTY = ("proc", "sys", "dev", "tmp", "run", "root", "home/nonroot", "var/tmp", "etc/ssl/certs", "opt")
_AUTHORITIES = "usr/share/ca-certificates/mozilla/"
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    # Whoever runs the image lays its own over these two; a read-only root needs them to be there.
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "",
}
_LINKS = {
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "var/run": "/run",
    # Where the OpenSSLs of Debian and of portable interpreters look for authorities.
    "usr/lib/ssl/certs": "/etc/ssl/certs",
    "usr/lib/ssl/cert.pem": f"/{_BUNDLE}",
    "etc/ssl/cert.pem": f"/{_BUNDLE}",
}


def read_deb(data: bytes, name: str) -> tuple[bytes, dict[str, tuple[Content, bool]]]:
    """The control file, and for each path below / its content and whether it is executable.

    Paths are those of a merged /usr. Raises BaseImageError for a damaged file and for paths that lead out of it.
    """
    try:
        members = dict(_ar_members(data))
        control = _tar(members, "control")
        with tarfile.open(fileobj=io.BytesIO(control)) as archive:
            file = archive.extractfile("./control")
            if file is None:
                raise BaseImageError(f"{name} has no control file")
            description = file.read()
        with tarfile.open(fileobj=io.BytesIO(_tar(members, "data"))) as archive:
            return description, _files(archive, name)
    except (ValueError, KeyError, EOFError, OSError, lzma.LZMAError, zstandard.ZstdError, tarfile.TarError) as error:
        raise BaseImageError(f"{name} is not a Debian package: {error}") from error


def lay_out(packages: Mapping[str, bytes], root: Path) -> None:
    """Write the .deb files, given by package name, as a root file system into the empty directory ``root``.

    Raises BaseImageError when two packages disagree about a path.
    """
    tree: dict[str, tuple[Content, bool]] = {}
    for name, data in sorted(packages.items()):
        control, files = read_deb(data, name)
        for path, entry in files.items():
            if tree.setdefault(path, entry) != entry:
                raise BaseImageError(f"/{path} of {name} is something else in another package")
        tree[f"var/lib/dpkg/status.d/{name}"] = (control, False)
    authorities = sorted(path for path in tree if path.startswith(_AUTHORITIES) and path.endswith(".crt"))
    bundle = b"".join(content for path in authorities if isinstance(content := tree[path][0], bytes))
    added: dict[str, Content] = {**dict.fromkeys(_EMPTY), **_LINKS, _BUNDLE: bundle}
    added.update((path, text.encode()) for path, text in _TEXTS.items())
    tree |= {path: (content, False) for path, content in added.items()}
    for merged in ("bin", "sbin", "lib", "lib64"):
        if merged != "lib64" or any(path.startswith("usr/lib64/") for path in tree):
            tree[merged] = (f"usr/{merged}", False)
            tree.setdefault(f"usr/{merged}", (None, False))
    for path in list(tree):
        _add_parents(tree, path)
    _write(tree, root)


def _write(tree: Mapping[str, tuple[Content, bool]], root: Path) -> None:
    for path, (content, executable) in sorted(tree.items()):  # parents sort before what they hold
        target = root / path
        if content is None:
            target.mkdir()
        elif isinstance(content, str):
            target.symlink_to(content)
        else:
            target.write_bytes(content)
            if executable:
                target.chmod(0o755)


def _add_parents(tree: dict[str, tuple[Content, bool]], path: str) -> None:
    while path := posixpath.dirname(path):
        if tree.setdefault(path, (None, False))[0] is not None:
            # Never write through a link: it could lead out of the tree.
            raise BaseImageError(f"/{path} is a directory in one package and none in another")


def _files(archive: tarfile.TarFile, name: str) -> dict[str, tuple[Content, bool]]:
    files: dict[str, tuple[Content, bool]] = {}
    for member in archive:
        path = _path(member.name, name)
        if path in ("", ".") or (path.startswith(_DROPPED) and not path.endswith("/copyright")):
            continue
        if member.isdir():
            files[path] = (None, False)
        elif member.issym():
            if path.startswith("usr/") and path == f"usr/{member.linkname.rstrip('/')}".replace("usr/usr/", "usr/"):
                continue  # /lib -> usr/lib, which merging has turned into a link to itself
            files[path] = (member.linkname, False)
        elif member.islnk():
            files[path] = files[_path(member.linkname, name)]
        elif member.isfile():
            file = archive.extractfile(member)
            files[path] = (file.read() if file is not None else b"", bool(member.mode & 0o100))
        else:
            raise BaseImageError(f"{name} holds a device or pipe, /{path}")
    return files


def _path(text: str, name: str) -> str:
    path = posixpath.normpath(text)
    if path.startswith(("/", "../")) or path == ".." or "\0" in path:
        raise BaseImageError(f"{name} holds the path {text!r}, which leads out of the image")
    return _MERGED.sub(r"usr/\1", path)


def _tar(members: Mapping[str, bytes], name: str) -> bytes:
    for suffix, unpack in _UNPACK.items():
        if (data := members.get(f"{name}.tar{suffix}")) is not None:
            return unpack(data)
    raise KeyError(f"no {name}.tar in it")


def _ar_members(data: bytes) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(b"!<arch>\n"):
        raise ValueError("no ar archive")
    start = 8
    while start + 60 <= len(data):
        header = data[start : start + 60]
        size = int(header[48:58])
        if header[58:] != b"`\n" or size < 0 or start + 60 + size > len(data):
            raise ValueError("the ar archive is cut short")
        yield header[:16].decode("ascii").strip().rstrip("/"), data[start + 60 : start + 60 + size]
        start += 60 + size + size % 2
