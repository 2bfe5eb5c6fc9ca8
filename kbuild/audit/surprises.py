"""What a file of an image can do that nobody expects of it, by what its layer says of it alone.

These are signs, not proofs: they name what is wrong in a layer, and find something in one of which nothing is known.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from kbuild.audit.finding import Severity
from kbuild.audit.image_layers import ImageLayer, LayerMember

# "COPY interpreter/ /": what kbuild copies lies above whatever the base has.
_COPIED = re.compile(r"COPY (--\S+ )*(base|interpreter)/ /")
_STARTUP = re.compile(
    r"(.*/)?((site|user)customize(\.py|\.pyc|\.so|/__init__\.py)|(site|user)customize\.[\w-]+\.(so|pyc)|pyvenv\.cfg|[^/]*\._pth)"
    r"|etc/ld\.so\.preload|.*/(site|dist)-packages/[^/]+\.(pth|start)"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """``id`` of the finding, how bad it is and what it means, for the sentence "PATHS: MEANING"."""

    id: str
    severity: Severity
    meaning: str


SETUID = Kind("image-setuid", "high", "runs with rights of its owner or with capabilities (setuid, setgid, setcap)")
DEVICE = Kind("image-device", "high", "is a device or a pipe, no file")
WRITABLE = Kind("image-world-writable", "medium", "can be written by every user")
STARTUP = Kind("image-startup", "critical", "is executed at each start of an interpreter or program")
HIDDEN = Kind("image-whiteout", "high", "is hidden from the layers below")
COVERED = Kind("image-over", "high", "takes the place of a file of a layer below")
THROUGH = Kind("image-through-link", "critical", "is reached through a symbolic link")
LINKED = Kind("image-hard-link", "high", "is a hard link to a file of another layer, or to none")
SOURCELESS = Kind("image-bytecode", "high", "is bytecode without the source that it was compiled from")


def is_startup(path: str) -> bool:
    """Whether Python or the loader executes what lies under this path without being asked."""
    return _STARTUP.fullmatch(path) is not None


def base_layers(layers: Sequence[ImageLayer]) -> int:
    """How many layers lie below those that kbuild copies; all of them where it says of none."""
    return next((n for n, layer in enumerate(layers) if _COPIED.fullmatch(layer.created_by)), len(layers))


def surprises(
    layers: Sequence[ImageLayer], looked: Set[int], *, owned: Set[str] = frozenset()
) -> Iterator[tuple[Kind, LayerMember]]:
    """Of the layers with the numbers in ``looked``; the others are only what they lie on.

    ``owned`` are paths of startup files that a package brought. A base may hide and replace what is in it.
    """
    below: dict[str, LayerMember] = {}
    first = base_layers(layers)
    for number, layer in enumerate(layers):
        own: dict[str, LayerMember] = {}
        for member in layer.members:
            if number in looked:
                found = set(_by_itself(member, owned))
                found |= set(_in_place(member, own, below, based=number < first))
                for kind in sorted(found, key=lambda each: each.id):
                    yield kind, member
            if member.kind not in ("hidden", "hidden content"):
                own[member.path] = member
        _lay(layer, own, below)
    for number in sorted(looked):
        for member in layers[number].members:
            if member.kind == "file" and below.get(member.path) is member and not _has_source(member.path, below):
                yield SOURCELESS, member


def _by_itself(member: LayerMember, owned: Set[str]) -> Iterator[Kind]:
    if member.privileged or (member.kind in ("file", "hard link") and member.mode & 0o6000):
        yield SETUID
    if member.kind in ("device", "pipe"):
        yield DEVICE
    sticky = member.kind == "folder" and member.mode & 0o1000
    if member.kind in ("file", "folder") and member.mode & 0o002 and not sticky:
        yield WRITABLE
    if member.kind in ("file", "link", "hard link") and is_startup(member.path) and member.path not in owned:
        yield STARTUP


def _in_place(
    member: LayerMember, own: Mapping[str, LayerMember], below: Mapping[str, LayerMember], *, based: bool
) -> Iterator[Kind]:
    if any(_is_link(folder, own, below) for folder in _parents(member.path)):
        yield THROUGH
    if member.kind == "hard link" and posixpath.normpath(f"/{member.link}").lstrip("/") not in own:
        yield LINKED
    if based:
        return
    if member.kind == "hidden" or (member.kind == "hidden content" and any(_is_below(member.path, p) for p in below)):
        yield HIDDEN
    under = below.get(member.path)
    # Folders that both have are one.
    if under is not None and "hidden" not in member.kind and (member.kind, under.kind) != ("folder", "folder"):
        yield COVERED


def _is_link(folder: str, own: Mapping[str, LayerMember], below: Mapping[str, LayerMember]) -> bool:
    there = own.get(folder) or below.get(folder)
    return there is not None and there.kind == "link"


def _lay(layer: ImageLayer, own: Mapping[str, LayerMember], below: dict[str, LayerMember]) -> None:
    for member in layer.members:
        if member.kind in ("hidden", "hidden content"):
            gone = [path for path in below if _is_below(member.path, path)]
            for path in [*gone, *([member.path] if member.kind == "hidden" else [])]:
                below.pop(path, None)
    below.update(own)


def _is_below(folder: str, path: str) -> bool:
    return path.startswith(f"{folder}/") if folder else True


def _has_source(path: str, files: Mapping[str, LayerMember]) -> bool:
    """True as well for what is no bytecode (PEP 3147: ``__pycache__/NAME.TAG.pyc``, or NAME.pyc alone)."""
    folder, name = posixpath.split(path)
    if not name.endswith((".pyc", ".pyo")):
        return True
    if posixpath.basename(folder) == "__pycache__":
        folder, name = posixpath.dirname(folder), name.partition(".")[0]
    else:
        name = name.rpartition(".")[0]
    return f"{folder}/{name}.py" in files


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
