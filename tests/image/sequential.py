"""What an image's layers come to, one after the other, told in memory from the words of OCI image-spec layer.md.

Nothing of kbuild is used, and no file: the tree of names below is what ``apply`` of the specification changes. Names
lead to objects, so that hard links are two names of one object; a path's links are followed as after chroot.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field


class Refused(Exception):
    """A member that no root can be made from."""


@dataclass(eq=False)
class File:
    mode: int
    content: str


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Folder:
    mode: int = 0o755
    names: dict[str, File | Link | Folder] = field(default_factory=dict)


class Image:
    """The root of an image while its layers are applied."""

    def __init__(self) -> None:
        self.root = Folder()
        self._layer = -1
        # Which layer wrote a name of a directory: an opaque whiteout hides what lower ones wrote, and nothing else.
        self._by: dict[tuple[int, str], int] = {}

    def apply(self, members: Iterable[tuple[tarfile.TarInfo, str]]) -> None:
        """One layer: its members with their content, in its order."""
        self._layer += 1
        for member, content in members:
            steps = _steps(member.name)
            if not steps:
                continue
            folder = self._folder(steps[:-1])
            name = steps[-1]
            if name == ".wh..wh..opq":
                self._hide_lower(folder)
            elif name.startswith(".wh."):
                hidden = name[len(".wh.") :]
                if hidden in ("", ".", ".."):
                    raise Refused(member.name)
                folder.names.pop(hidden, None)
            else:
                self._write(folder, name, member, content)

    def _write(self, folder: Folder, name: str, member: tarfile.TarInfo, content: str) -> None:
        new: File | Link | Folder | None
        there = folder.names.get(name)
        if member.isdir():
            # "Directories: attributes are replaced", what is in one stays; anything else gives way.
            new = there if isinstance(there, Folder) else Folder()
            # The owner can always go in and clean up: kbuild unpacks as whoever calls it.
            new.mode = member.mode & 0o1777 | 0o700
        elif member.issym():
            new = Link(member.linkname)
        elif member.islnk():
            steps = _steps(member.linkname)
            new = self._folder(steps[:-1]).names.get(steps[-1]) if steps else None
            if new is there and new is not None and not isinstance(new, Folder):
                return
            if not isinstance(new, File | Link):
                raise Refused(f"{member.name} links to no file")
        else:
            new = File(member.mode & 0o777, content)
        folder.names[name] = new
        self._by[id(folder), name] = self._layer

    def _hide_lower(self, folder: Folder) -> None:
        for name, each in list(folder.names.items()):
            if isinstance(each, Folder):
                self._hide_lower(each)
                if each.names:
                    continue
            if self._by.get((id(folder), name)) != self._layer:
                del folder.names[name]

    def _folder(self, steps: list[str]) -> Folder:
        """The directory that a path leads to; a directory that no layer names is there all the same."""
        at: list[Folder] = [self.root]
        left, links = list(steps), 0
        while left:
            step = left.pop(0)
            if step == "..":
                at = at[:-1] or at
                continue
            found = at[-1].names.setdefault(step, Folder())
            if isinstance(found, Link):
                links += 1
                if links > 40:  # as Linux does (path_resolution(7))
                    raise Refused("links without an end")
                if found.target.startswith("/"):
                    at = [self.root]
                left = [each for each in found.target.split("/") if each not in ("", ".")] + left
            elif isinstance(found, Folder):
                at.append(found)
            else:
                raise Refused("a path through a file")
        return at[-1]

    def look(self) -> dict[str, tuple[str, str]]:
        """Mode as ``ls`` shows it and content or target, of everything by its path."""
        seen: dict[str, tuple[str, str]] = {}

        def walk(folder: Folder, prefix: str) -> None:
            for name, each in folder.names.items():
                if isinstance(each, Folder):
                    seen[prefix + name] = (_shown("d", each.mode), "")
                    walk(each, f"{prefix}{name}/")
                elif isinstance(each, Link):
                    seen[prefix + name] = ("lrwxrwxrwx", each.target)
                else:
                    seen[prefix + name] = (_shown("-", each.mode), each.content)

        walk(self.root, "")
        return seen


def _shown(kind: str, mode: int) -> str:
    letters = "".join(letter if mode >> 8 - number & 1 else "-" for number, letter in enumerate("rwxrwxrwx"))
    if mode & 0o1000:
        letters = letters[:-1] + ("t" if letters[-1] == "x" else "T")
    return kind + letters


def _steps(name: str) -> list[str]:
    """The path's parts, ``..`` taken back by name, and staying at the root."""
    steps: list[str] = []
    for part in name.split("/"):
        if part == "..":
            steps[-1:] = []
        elif part not in ("", "."):
            steps.append(part)
    return steps
