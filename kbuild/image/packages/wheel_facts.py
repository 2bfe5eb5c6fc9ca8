"""What wheels say about themselves without being unpacked, and how a lock's wheels are split into layers by it.

Format: PEP 427 (the archive and its ``.data`` folder), the entry points specification at packaging.python.org.
"""

from __future__ import annotations

import configparser
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.cache.tree import writing
from kbuild.digest import digest_json
from kbuild.environment.index.downloads import check_download
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import LockfileInvalid
from kbuild.files import mark_used
from kbuild.plan.split import RULE, PackageGroup, WheelFacts, group_json, read_group, split_packages

BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError)
"""What ``zipfile`` raises for an archive that cannot be read: damaged, encrypted, packed by an unknown method, or with
a text that is none."""
_SCRIPTS = ("console_scripts", "gui_scripts")


def broken_wheel(name: str, reason: str) -> LockfileInvalid:
    """The error for a wheel that is what the lock says, and breaks its format."""
    return LockfileInvalid(
        f"{name} cannot be installed: {reason}",
        hint="its authors have published it so: pin another release of it, and log the model again",
    )


def check_identity(metadata: str, name: str) -> None:
    """Raises LockfileInvalid for a wheel whose METADATA is of another project or release than its file's name, as pip
    does: what is locked as one would be installed as the other."""
    project, release = parse_wheel_filename(name)[:2]
    stated = HeaderParser().parsestr(metadata)
    if canonicalize_name(stated["Name"] or "") != project:
        raise broken_wheel(name, f"its metadata is of {stated['Name'] or 'no package'}")
    if Version(stated["Version"] or "") != release:
        raise broken_wheel(name, f"its metadata is of version {stated['Version']}")


def read_wheel_facts(path: Path, name: str) -> WheelFacts:
    """The facts of one wheel file; ``name`` is for messages. Raises LockfileInvalid for a file that is no wheel."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            points = next((i for i in members if i.filename.endswith(".dist-info/entry_points.txt")), None)
            scripts = {} if points is None else _scripts(archive.read(points).decode())
    except (*BROKEN, configparser.Error) as error:
        raise broken_wheel(name, " ".join(str(error).split())) from error
    # Headers lie in a folder of their own for each package; its name is not in the wheel.
    marks = {
        _installed(info.filename): f"{info.file_size} {info.CRC:08x}"
        for info in members
        if "__pycache__" not in info.filename.split("/") and not _installed(info.filename).startswith("include/")
    }
    marks |= {f"bin/{script}": called for script, called in scripts.items()}
    paths = frozenset(_installed(info.filename) for info in members) | marks.keys()
    return WheelFacts(size=sum(info.file_size for info in members), paths=paths, marks=marks)


def split_wheels(
    wheels: tuple[LockedPackage, ...], *, cache: Path, download: Callable[[], Mapping[LockedPackage, Path]]
) -> tuple[PackageGroup, ...]:
    """The layers of a lock's wheels. ``download`` is asked for their files the first time a cache meets this lock."""
    if not wheels:
        return ()
    by_hash = {package.sha256: package for package in wheels}
    record = split_record(wheels, cache)
    known = _read_record(record, by_hash)
    if known is not None:
        return known
    files = download()
    for package in wheels:
        check_download(files[package], package)
    groups = split_packages({package: read_wheel_facts(files[package], package.filename) for package in wheels})
    with writing("the cache"):
        write_vouched(record, json.dumps([group_json(group) for group in groups]).encode())
    return groups


def split_record(wheels: tuple[LockedPackage, ...], cache: Path) -> Path:
    """Where ``split_wheels`` writes down what it found, under a name that these wheels and the rule decide."""
    return cache / "splits" / digest_json([RULE, sorted((p.name, p.sha256) for p in wheels)]).hex


def _read_record(record: Path, by_hash: Mapping[str, LockedPackage]) -> tuple[PackageGroup, ...] | None:
    """None as well for a record that does not hold exactly these packages: it is then made again."""
    try:
        groups = tuple(read_group(group, by_hash) for group in json.loads(read_vouched(record)))
        mark_used(record)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return groups if sorted(p.sha256 for group in groups for p in group.packages) == sorted(by_hash) else None


def _installed(member: str) -> str:
    """The place relative to the prefix, site-packages standing for ``site``."""
    top, _, inside = member.partition("/")
    if not top.endswith(".data"):
        return f"site/{member}"
    scheme, _, rest = inside.partition("/")
    places = {"purelib": "site/", "platlib": "site/", "scripts": "bin/", "data": "", "headers": "include/"}
    return places.get(scheme, f"{top}/{scheme}/") + rest


def _scripts(text: str) -> dict[str, str]:
    """What each script calls."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of scripts keep their case
    parser.read_string(text)
    found = (parser.items(section) for section in _SCRIPTS if parser.has_section(section))
    return {name: called for items in found for name, called in items}
