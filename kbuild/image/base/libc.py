"""The C library and the shell of a base image, found in its layers.

Formats: OCI image-spec layer.md (whiteouts); the program interpreter of the x86-64 and AArch64 psABI; ELF headers;
glibc's banner and its symbol versions (``.gnu.version_d``).
"""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection

from kbuild.image.base.layers import layer_files, read_base
from kbuild.image.engine import PackedBlob
from kbuild.image.oci.whiteouts import read_whiteout
from kbuild.plan.base import BaseFacts, ResolvedBase
from kbuild.platform import Platform


@dataclass(frozen=True, kw_only=True, slots=True)
class _Abi:
    """Where a processor's programs look for their loader, and for libraries besides the usual folders."""

    loader: str
    machine: str
    triplet: str


_ABIS = {
    "amd64": _Abi(loader="lib64/ld-linux-x86-64.so.2", machine="EM_X86_64", triplet="x86_64-linux-gnu"),
    "arm64": _Abi(loader="lib/ld-linux-aarch64.so.1", machine="EM_AARCH64", triplet="aarch64-linux-gnu"),
}
# The parts of glibc that every CPython is linked with; distributions can pack them apart.
_PARTS = ("libm.so.6", "libdl.so.2", "libpthread.so.0")
_READ = re.compile(r"(?:ld|ld64|libc)[-.].*so.*")
_KEPT = re.compile(r"(?:ld|ld64|lib(?:c|m|dl|pthread))[-.].*so.*")
_PROGRAMS = ("bin/", "usr/bin/", "sbin/", "usr/sbin/")
_MUSL = re.compile(r"(?:ld-musl-.*|libc\.musl-.*)")
_BANNER = re.compile(rb"GNU C Library [^\n\0]{0,200}? version (\d+\.\d+)")
_SYMBOLS = re.compile(r"GLIBC_(\d+)\.(\d+)")
_LINKS = 40


def read_facts(base: ResolvedBase, platform: Platform) -> BaseFacts:
    """What the base's layers amount to; raises BaseImageError where one cannot be read."""
    files = _Files()
    for layer in read_base(base).layers:
        if isinstance(layer.content, PackedBlob):
            files.apply(layer_files(layer.content, lambda name: _READ.fullmatch(posixpath.basename(name)) is not None))
    return _judge(files, platform)


def _judge(files: _Files, platform: Platform) -> BaseFacts:
    abi = _ABIS[platform.architecture]
    shell = files.has_program("bin/sh")
    loader = files.find(abi.loader)
    if loader is None:
        return BaseFacts(glibc=None, shell=shell, fault=_without_loader(files, abi, platform))
    folders = (posixpath.dirname(loader), *_folders(abi))
    libc = files.find_in(folders, "libc.so.6")
    if libc is None:
        musl = _musl(files)
        return BaseFacts(glibc=None, shell=shell, fault=musl or f"it has /{abi.loader}, but no libc.so.6")
    fault: str | None = None
    for path in (loader, libc):
        machine = _machine(files.content(path))
        if machine is None:
            fault = fault or f"its /{path} is not an ELF file"
        elif machine != abi.machine:
            fault = fault or f"its /{path} is for {_plain(machine)}, and the image is for {platform}"
    missing = [name for name in _PARTS if files.find_in(folders, name) is None]
    if fault is None and missing:
        fault = f"its glibc lacks {', '.join(missing)}"
    glibc = None if fault else _glibc(files.content(libc))
    if fault is None and glibc is None:
        fault = f"its /{libc} is not glibc's"
    return BaseFacts(glibc=glibc, shell=shell, fault=fault)


def _without_loader(files: _Files, abi: _Abi, platform: Platform) -> str:
    others = sorted(path for path in files.paths() if posixpath.basename(path).startswith(("ld-", "ld64")))
    machines = {path: _machine(files.content(path)) for path in others}
    foreign = next((path for path in others if machines[path] not in (None, abi.machine)), None)
    if foreign is not None and abi.machine not in machines.values():
        return f"its /{foreign} is for {_plain(machines[foreign])}, and the image is for {platform}"
    return _musl(files) or f"it has no glibc: there is no /{abi.loader}"


def _musl(files: _Files) -> str | None:
    path = next((path for path in files.paths() if _MUSL.fullmatch(posixpath.basename(path))), None)
    return None if path is None else f"its C library is musl (/{path}), and Python is built for glibc"


def _folders(abi: _Abi) -> tuple[str, ...]:
    return (f"lib/{abi.triplet}", f"usr/lib/{abi.triplet}", "lib64", "usr/lib64", "lib", "usr/lib")


def _machine(content: bytes) -> str | None:
    try:
        return str(ELFFile(io.BytesIO(content))["e_machine"])
    except (ELFError, ValueError, OSError):
        return None


def _plain(machine: str | None) -> str:
    """``aarch64`` for ``EM_AARCH64``."""
    return str(machine).removeprefix("EM_").lower()


def _glibc(content: bytes) -> str | None:
    """By the banner that every glibc prints when it is run; else by the newest of its symbol versions."""
    banner = _BANNER.search(content)
    if banner is not None:
        return banner[1].decode()
    versions: set[tuple[int, int]] = set()
    try:
        for section in ELFFile(io.BytesIO(content)).iter_sections():
            if isinstance(section, GNUVerDefSection):
                names = (aux.name for _, found in section.iter_versions() for aux in found)
                versions |= {(int(m[1]), int(m[2])) for name in names if (m := _SYMBOLS.match(name))}
    except (ELFError, ValueError):
        return None
    return ".".join(map(str, max(versions))) if versions else None


class _Files:
    """Links, programs and C libraries of the layers so far, by their real paths."""

    def __init__(self) -> None:
        self._links: dict[str, str] = {}
        self._found: dict[str, bytes] = {}

    def apply(self, members: Iterable[tuple[tarfile.TarInfo, bytes | None]]) -> None:
        """One layer on top of those before."""
        written: set[str] = set()
        for member, content in members:
            folder, name = posixpath.split(posixpath.normpath(f"/{member.name}").lstrip("/"))
            folder = self._real(folder) or ""
            path = posixpath.join(folder, name)
            whiteout = read_whiteout(path)
            if whiteout is not None:
                self._remove(whiteout.path, keep=written, itself=not whiteout.opaque)
            elif member.isdir():
                self._links.pop(path, None)
                self._found.pop(path, None)
            elif name:
                self._remove(path)
                self._place(path, member, content)
                written.add(path)

    def _place(self, path: str, member: tarfile.TarInfo, content: bytes | None) -> None:
        if member.issym():
            self._links[path] = member.linkname
        elif member.islnk():
            target = self._real(posixpath.normpath(f"/{member.linkname}").lstrip("/"))
            if target in self._found:
                self._found[path] = self._found[target]
        elif member.isfile() and (_KEPT.fullmatch(posixpath.basename(path)) or path.startswith(_PROGRAMS)):
            self._found[path] = content or b""

    def _remove(self, path: str, *, keep: Iterable[str] = (), itself: bool = True) -> None:
        below = f"{path}/" if path else ""
        for table in (self._links, self._found):
            for each in [each for each in table if (each == path and itself) or each.startswith(below)]:
                if each not in keep:
                    del table[each]

    def paths(self) -> list[str]:
        """Every file that is kept, and every link."""
        return sorted({*self._found, *self._links})

    def find(self, path: str) -> str | None:
        """The file that a path leads to."""
        real = self._real(path)
        return real if real in self._found else None

    def has_program(self, path: str) -> bool:
        """Whether there is a program at this path; one that a link leads to elsewhere is taken to be there."""
        real = self._real(path)
        return real is not None and (real in self._found or (path != real and not real.startswith(_PROGRAMS)))

    def find_in(self, folders: Iterable[str], name: str) -> str | None:
        """The file of this name in the first of the folders that has it."""
        found = (self.find(posixpath.join(folder, name)) for folder in folders)
        return next((each for each in found if each is not None), None)

    def content(self, path: str) -> bytes:
        """The file's bytes; none where it leads nowhere."""
        return self._found.get(self._real(path) or "", b"")

    def _real(self, path: str) -> str | None:
        """The path without links; None for a circle of them."""
        pending = [part for part in reversed(path.split("/")) if part]
        real, followed = "", 0
        while pending:
            part = pending.pop()
            if part == "..":
                real = posixpath.dirname(real)
                continue
            real = posixpath.join(real, part)
            target = self._links.get(real)
            if target is None:
                continue
            followed += 1
            if followed > _LINKS:
                return None
            real = "" if target.startswith("/") else posixpath.dirname(real)
            pending += [each for each in reversed(target.split("/")) if each not in ("", ".")]
        return real
