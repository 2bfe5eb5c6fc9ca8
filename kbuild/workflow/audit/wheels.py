"""Whether layers of packages hold what the locked wheels hold: the lock names their bytes, no cache does.

Formats: the binary distribution format (PEP 427), "Recording installed projects" and "Entry points" at
packaging.python.org. Bytecode is only seen to stand beside its source.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import posixpath
import zipfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache as cached
from importlib.metadata import version
from pathlib import Path

from installer.exceptions import InstallerError
from installer.scripts import Script
from installer.utils import parse_entrypoints

from kbuild.audit.image_layers import ImageLayer, LayerMember
from kbuild.audit.planned import PlannedLayer
from kbuild.cache.notes import is_reading_all, read_vouched, write_if_allowed
from kbuild.digest import Digest, digest_bytes, digest_file, digest_json
from kbuild.environment.index.downloads import cache_path
from kbuild.files import mark_used
from kbuild.image.packages import wheels
from kbuild.image.packages.wheels import SpelledWheel, WheelTarget, hidden_places, wheel_filename
from kbuild.plan.split import PackageGroup
from kbuild.progress import at_most

_SHOWN = 3
_PROVED = b"its files are those of the wheels"
_LINK = "hard link"
_MADE = ("RECORD", "INSTALLER")
_PLACEHOLDER = b"#!python"


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelsCompared:
    """``lacking`` are the names of packages whose locked file is not here, ``other`` in-image paths that are not what
    the wheels hold."""

    lacking: tuple[str, ...]
    other: tuple[str, ...]


_SAME = WheelsCompared(lacking=(), other=())


@dataclass(slots=True)
class _Wanted:
    """The digests that a path may have; ``free`` are paths that installing writes as it likes: nothing runs them.
    ``hidden`` are those of the package that is read which another one's files take."""

    digests: dict[str, set[Digest]] = field(default_factory=dict)
    free: set[str] = field(default_factory=set)
    hidden: Collection[str] = ()

    def put(self, path: str, digest: Digest) -> None:
        if path not in self.hidden:
            self.digests.setdefault(path, set()).add(digest)


def prove_wheels(
    planned: tuple[PlannedLayer, ...],
    groups: tuple[PackageGroup, ...],
    layers: tuple[ImageLayer, ...],
    target: WheelTarget,
    *,
    cache: Path,
) -> tuple[tuple[PlannedLayer, ...], str | None]:
    """What the cache says of layers of packages counts where they hold what the locked wheels do; of the others it is
    not known, and the fault says why. That they do is kept in ``cache``, by the digests of both."""
    here = {layer.diff_id: layer.members for layer in layers}
    by_name = {group.name: group for group in groups}
    if not by_name.keys() <= {layer.name for layer in planned}:
        unknown = (replace(layer, diff_id=None) if layer.diff_id in here else layer for layer in planned)
        return tuple(unknown), "which of its layers hold the locked wheels is not known here"
    proved: list[PlannedLayer] = []
    lacking: list[str] = []
    for layer in planned:
        if layer.diff_id is None or layer.diff_id not in here or layer.name not in by_name:
            proved.append(layer)
            continue
        note = _note(cache, layer.diff_id, by_name[layer.name], target)
        if _is_noted(note):
            proved.append(layer)
            continue
        compared = compare_wheels(by_name[layer.name], here[layer.diff_id], target, downloads=cache / "downloads")
        if compared == _SAME:
            write_if_allowed(note, _PROVED)
        lacking += compared.lacking
        proved.append(replace(layer, diff_id=None if compared.lacking else layer.diff_id, other=compared.other))
    if not lacking:
        return tuple(proved), None
    return tuple(proved), f"the locked files of {at_most(lacking, _SHOWN)} are not in the cache"


def _note(cache: Path, diff_id: Digest, group: PackageGroup, target: WheelTarget) -> Path:
    hidden = group.hidden()
    named = [[each.name, each.sha256, wheel_filename(each), sorted(hidden.get(each, ()))] for each in group.packages]
    where = [target.python, str(target.platform), target.prefix]
    return cache / "layer-members" / digest_json([str(diff_id), named, where, _rules()]).hex


@cached
def _rules() -> str:
    """What compares, and what says where files of wheels lie: other rules may find what these did not."""
    files = [str(digest_file(str(path))) for path in (__file__, wheels.__file__)]
    return str(digest_json([files, version("installer")]))


def _is_noted(note: Path) -> bool:
    try:
        noted = not is_reading_all() and read_vouched(note) == _PROVED
    except FileNotFoundError:
        return False
    if noted:
        mark_used(note)
    return noted


def compare_wheels(
    group: PackageGroup, members: Iterable[LayerMember], target: WheelTarget, *, downloads: Path
) -> WheelsCompared:
    """Every file of a layer with those of the wheels in ``downloads``, whose own bytes are hashed first."""
    wanted, lacking = _Wanted(), []
    hidden = hidden_places(group, target)
    for package in group.packages:
        wanted.hidden = hidden.get(package, {}).keys()
        path = cache_path(package, downloads)
        try:
            if digest_file(path).hex != package.sha256:
                lacking.append(package.name)
                continue
            _read(path, wheel_filename(package), target, wanted)
        except (OSError, zipfile.BadZipFile, InstallerError, ValueError, KeyError, AssertionError):
            lacking.append(package.name)
    other = () if lacking else tuple(f"/{path}" for path in _others(list(members), wanted))
    return WheelsCompared(lacking=tuple(lacking), other=other)


def _others(members: list[LayerMember], wanted: _Wanted) -> Iterator[str]:
    digests = {member.path: member.digest for member in members if member.kind == "file"}
    for member in members:
        if member.kind == "folder" or member.path in wanted.free:
            continue
        linked = posixpath.normpath(f"/{member.link}").lstrip("/") if member.kind == _LINK else member.path
        digest = digests.get(linked)
        known = digest is not None and digest in wanted.digests.get(member.path, ())
        if not known and not (digest is not None and _is_bytecode(member.path, wanted)):
            yield member.path


def _is_bytecode(path: str, wanted: _Wanted) -> bool:
    folder, name = posixpath.split(path)
    if posixpath.basename(folder) != "__pycache__" or not name.endswith(".pyc"):
        return False
    return f"{posixpath.dirname(folder)}/{name.partition('.')[0]}.py" in wanted.digests


def _read(path: Path, filename: str, target: WheelTarget, wanted: _Wanted) -> None:
    with zipfile.ZipFile(path) as archive:
        source = SpelledWheel(archive, filename)
        schemes = {name: place.lstrip("/") for name, place in target.schemes(source.distribution).items()}
        info, data = source.dist_info_dir, f"{source.data_dir}/"
        recorded = _recorded(archive.read(f"{info}/RECORD").decode("utf-8", errors="replace"))
        for member in archive.infolist():
            if member.is_dir():
                continue
            scheme, inside = "purelib", member.filename
            if inside.startswith(data):
                scheme, _, inside = inside.removeprefix(data).partition("/")
            place = posixpath.normpath(f"{schemes[scheme]}/{inside}")
            known = recorded.get(member.filename)
            if known is not None:
                wanted.put(place, known)
            if known is None or scheme == "scripts":
                for content in _contents(archive.read(member), scheme, target):
                    wanted.put(place, digest_bytes(content))
        wanted.free |= {f"{schemes['purelib']}/{info}/{name}" for name in _MADE}
        if "entry_points.txt" in source.dist_info_filenames:
            for name, module, attr, section in parse_entrypoints(source.read_dist_info("entry_points.txt")):
                called, script = Script(name, module, attr, section).generate(f"{target.prefix}/bin/python", "posix")
                wanted.put(f"{schemes['scripts']}/{called}", digest_bytes(script))


def _contents(data: bytes, scheme: str, target: WheelTarget) -> Iterator[bytes]:
    """As it is, and as a script is that is to be started by the interpreter of its environment."""
    yield data
    if scheme == "scripts" and data.startswith(_PLACEHOLDER):
        yield f"#!{target.prefix}/bin/python".encode() + data[data.index(b"\n") :]


def _recorded(text: str) -> dict[str, Digest]:
    found = {}
    for row in csv.reader(text.splitlines()):
        algorithm, _, encoded = (row[1] if len(row) > 1 else "").partition("=")
        if algorithm == hashlib.sha256().name:
            found[row[0]] = Digest(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex())
    return found
