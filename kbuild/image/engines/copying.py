"""What COPY changes: the members of a layer, by the rules of BuildKit's copy and of its overlay differ.

BuildKit's ``util/overlay`` and fsutil's ``copy``, seen on BuildKit 0.13: a folder that exists takes the mode and owner
of the copied one; the target folder itself is left as it is; a file equal to the one below in mode, owner, time and
content is no change; a folder is in the layer when it changed or something in it did; folders never replace files or
links, nor these folders. kbuild gives equal content equal times, so here a file is no change when an earlier COPY
brought the same one; a file of the base image, whose times are its own, always is.
"""

# Names in a build context are bytes, which need not be UTF-8; pathlib takes none.
# ruff: noqa: PTH115, PTH116, PTH121, PTH123

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbuild.image.oci import tarball
from kbuild.image.oci.tarball import Entry
from kbuild.image.oci.whiteouts import read_whiteout, with_parents

_CHUNK = 1 << 20


class CopyConflict(Exception):
    """A copy that BuildKit refuses too; the message says which path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ownership:
    """COPY's ``--chown`` and ``--chmod``; ``mode`` None keeps each file's own."""

    uid: int = 0
    gid: int = 0
    mode: int | None = None


class FileSystem:
    """What the layers so far amount to: each path (bytes, relative) and the entry it has there."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def copy(self) -> FileSystem:
        """Another one with the same entries."""
        other = FileSystem()
        other._entries = dict(self._entries)
        return other

    def get(self, name: bytes) -> Entry | None:
        """The entry at a path, or None."""
        return self._entries.get(name)

    def put(self, entry: Entry) -> None:
        """Set the entry of a path."""
        self._entries[entry.name] = entry

    def apply_tar(self, members: Iterable[tarfile.TarInfo]) -> None:
        """Apply a base image's layer, its whiteouts included (OCI image-spec layer.md "Whiteouts")."""
        written: set[str] = set()
        for member in members:
            path = member.name.removeprefix("./").strip("/")
            name = os.fsencode(path)
            whiteout = read_whiteout(path)
            if whiteout is None:
                if name:
                    self._apply_member(name, member)
                    written.add(path)
                continue
            hidden = os.fsencode(whiteout.path)
            if whiteout.opaque:
                self._remove_below(hidden, set(map(os.fsencode, with_parents(written))))
            else:
                self._entries.pop(hidden, None)
                self._remove_below(hidden)

    def _apply_member(self, name: bytes, member: tarfile.TarInfo) -> None:
        kind = tarball.DIRECTORY if member.isdir() else tarball.SYMLINK if member.issym() else tarball.FILE
        if kind != tarball.DIRECTORY:
            self._remove_below(name)
        mode = member.mode & 0o7777
        self.put(
            Entry(name=name, kind=kind, mode=mode, uid=member.uid, gid=member.gid, link=os.fsencode(member.linkname))
        )

    def _remove_below(self, folder: bytes, spared: Collection[bytes] = ()) -> None:
        inside = folder + b"/" if folder else b""
        for name in [name for name in self._entries if name.startswith(inside) and name != folder]:
            if name not in spared:
                del self._entries[name]


def copy_tree(lower: FileSystem, sources: Sequence[Path], target: bytes, owner: Ownership) -> list[Entry]:
    """The layer of ``COPY source/ /target/``; ``lower`` is brought up to it. Raises OSError and CopyConflict.

    ``sources`` are the folders that together are the source: of a file that several have the first one's is copied.
    """
    changes = _Changes(lower)
    changes.make_folders(target, owner)
    copied: set[bytes] = set()
    for source in sources:
        for name, path, inner in _walk(os.fsencode(source), target):
            if name not in copied:
                copied.add(name)
                changes.add(name, path, inner, owner)
    return changes.layer()


def copy_file(lower: FileSystem, source: Path, target: bytes, owner: Ownership) -> list[Entry]:
    """The layer of ``COPY source /target``; ``lower`` is brought up to it. Raises OSError and CopyConflict."""
    changes = _Changes(lower)
    changes.make_folders(target.rpartition(b"/")[0], owner)
    changes.add(target, os.fsencode(source), os.stat(source), owner)
    return changes.layer()


def make_folder(lower: FileSystem, target: bytes) -> list[Entry]:
    """The layer of ``WORKDIR /target``: the folders that are missing. Raises CopyConflict."""
    changes = _Changes(lower)
    changes.make_folders(target, Ownership())
    return changes.layer()


class _Changes:
    def __init__(self, lower: FileSystem) -> None:
        self._lower = lower
        self._changed: dict[bytes, Entry] = {}
        self._links: dict[tuple[int, int], bytes] = {}

    def make_folders(self, target: bytes, owner: Ownership) -> None:
        parts = target.split(b"/") if target else []
        for depth in range(1, len(parts) + 1):
            name = b"/".join(parts[:depth])
            there = self._lower.get(name)
            if there is None:
                # Whatever the source's mode or --chmod: the folders up to the target are made with 0755.
                self._set(Entry(name=name, kind=tarball.DIRECTORY, mode=0o755, uid=owner.uid, gid=owner.gid))
            elif there.kind != tarball.DIRECTORY:
                raise CopyConflict(f"/{os.fsdecode(name)} is not a folder")

    def add(self, name: bytes, path: bytes, status: os.stat_result, owner: Ownership) -> None:
        entry = _entry(name, path, status, owner)
        there = self._lower.get(name)
        is_folder = entry.kind == tarball.DIRECTORY
        if there is not None and is_folder != (there.kind == tarball.DIRECTORY):
            what = "a folder cannot replace a file or link" if is_folder else "a file cannot replace a folder"
            raise CopyConflict(f"{what}: /{os.fsdecode(name)}")
        if there is not None and _same(entry, there):
            return
        key = (status.st_dev, status.st_ino)
        if entry.kind == tarball.FILE and status.st_nlink > 1 and key in self._links:
            # The entry kept for later layers is the file itself: they compare content, not how it was stored.
            self._lower.put(entry)
            self._changed[name] = _hard_link(entry, self._links[key])
            return
        if entry.kind == tarball.FILE and status.st_nlink > 1:
            self._links[key] = name
        self._set(entry)

    def layer(self) -> list[Entry]:
        """The members in the order of a walk, each after the folders it is in."""
        members = dict(self._changed)
        for name in self._changed:
            folder = name.rpartition(b"/")[0]
            while folder and folder not in members:
                there = self._lower.get(folder)
                # A base image may leave out the folders that its files are in.
                members[folder] = there or Entry(name=folder, kind=tarball.DIRECTORY, mode=0o755)
                folder = folder.rpartition(b"/")[0]
        return [members[name] for name in sorted(members, key=lambda name: name.split(b"/"))]

    def _set(self, entry: Entry) -> None:
        self._changed[entry.name] = entry
        self._lower.put(entry)


def _entry(name: bytes, path: bytes, status: os.stat_result, owner: Ownership) -> Entry:
    mode = stat.S_IMODE(status.st_mode) if owner.mode is None else owner.mode
    uid, gid, source = owner.uid, owner.gid, os.fsdecode(path)
    if stat.S_ISDIR(status.st_mode):
        return Entry(name=name, kind=tarball.DIRECTORY, mode=mode, uid=uid, gid=gid)
    if stat.S_ISLNK(status.st_mode):
        link = os.readlink(path)
        return Entry(name=name, kind=tarball.SYMLINK, mode=0o777, uid=uid, gid=gid, link=link, source=source)
    if stat.S_ISREG(status.st_mode):
        return Entry(name=name, kind=tarball.FILE, mode=mode, uid=uid, gid=gid, size=status.st_size, source=source)
    if stat.S_ISFIFO(status.st_mode):
        return Entry(name=name, kind=tarball.FIFO, mode=mode, uid=uid, gid=gid, source=source)
    raise CopyConflict(f"{os.fsdecode(path)} is neither a file, a folder, a link nor a pipe")


def _hard_link(entry: Entry, target: bytes) -> Entry:
    return Entry(name=entry.name, kind=tarball.HARD_LINK, mode=entry.mode, uid=entry.uid, gid=entry.gid, link=target)


def _same(new: Entry, old: Entry) -> bool:
    facts = (new.kind, new.mode, new.uid, new.gid, new.size, new.link)
    if facts != (old.kind, old.mode, old.uid, old.gid, old.size, old.link):
        return False
    if new.kind == tarball.DIRECTORY:
        return True
    if new.kind == tarball.FILE:
        return isinstance(new.source, str) and isinstance(old.source, str) and _same_content(new.source, old.source)
    return old.source is not None  # a link or pipe; those of a base image have times of their own


def _same_content(one: str, other: str) -> bool:
    if os.path.samefile(one, other):
        return True
    with open(one, "rb") as first, open(other, "rb") as second:
        while data := first.read(_CHUNK):
            if data != second.read(_CHUNK):
                return False
        return not second.read(1)


def _walk(folder: bytes, name: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Everything below a folder, its path below ``name`` first; a folder before what is in it."""
    start = len(folder) + 1
    pending = [iter(_sorted(folder))]
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
            continue
        inside = name + b"/" + entry.path[start:] if name else entry.path[start:]
        yield inside, entry.path, entry.stat(follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            pending.append(iter(_sorted(entry.path)))


def _sorted(folder: bytes) -> list[os.DirEntry[bytes]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
