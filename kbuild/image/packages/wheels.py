"""Wheels under a destdir: PyPA's ``installer`` unpacks them for the image's interpreter, each one once a cache.

Format: the binary distribution format (PEP 427 and its successors at packaging.python.org), RECORD and INSTALLER
of the "Recording installed projects" specification.
"""

# ruff: noqa: PTH103, PTH123
# paths as text take half the time of pathlib, over tens of thousands of files

from __future__ import annotations

import csv
import os
import posixpath
import zipfile
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.exceptions import InstallerError
from installer.records import Hash, InvalidRecordEntry, RecordEntry
from installer.sources import WheelContentElement, WheelFile
from installer.utils import Scheme, copyfileobj_with_hashing, make_file_executable
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from kbuild.cache.room import room_for
from kbuild.cache.tree import cached_trees, normalise_tree
from kbuild.digest import Digest, digest_json
from kbuild.environment.index.downloads import check_download
from kbuild.environment.index.wheel_tags import supported_tags, wanted_glibc
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import LockfileInvalid, SourceOnlyPackage
from kbuild.image.packages.bytecode import Compiler, compile_trees
from kbuild.image.packages.wheel_facts import BROKEN, broken_wheel, check_identity
from kbuild.plan.split import PackageGroup
from kbuild.platform import Platform
from kbuild.process import Runner

RECIPE = 2
"""Changes whenever the same wheel would be laid out differently."""


_BLOCK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelTarget:
    """Where wheels are going to run: ``python`` is the exact version, ``prefix`` the in-image path."""

    python: str
    platform: Platform
    prefix: str

    @property
    def short(self) -> str:
        """``3.11``"""
        return ".".join(self.python.split(".")[:2])

    def supported(self) -> frozenset[Tag]:
        """Every tag that the interpreter accepts on glibc Linux of any age."""
        return supported_tags(self.python, self.platform)

    @property
    def site_packages(self) -> str:
        """The in-image directory of installed packages."""
        return f"{self.prefix}/lib/python{self.short}/site-packages"

    def place(self, path: str) -> str:
        """The in-image path, without its first slash, of one as ``WheelFacts`` has them."""
        top, _, inside = path.partition("/")
        return (f"{self.site_packages}/{inside}" if top == "site" else f"{self.prefix}/{path}").lstrip("/")

    def schemes(self, distribution: str) -> dict[str, str]:
        """The in-image directory of each of a wheel's schemes, as a conda or venv prefix has them."""
        return {
            "purelib": self.site_packages,
            "platlib": self.site_packages,
            "headers": f"{self.prefix}/include/python{self.short}/{distribution}",
            "scripts": f"{self.prefix}/bin",
            "data": self.prefix,
        }


def hidden_places(group: PackageGroup, target: WheelTarget) -> dict[LockedPackage, dict[str, LockedPackage]]:
    """``group.hidden()`` by in-image paths, without their first slash."""
    return {
        package: {target.place(path): other for path, other in each.items()} for package, each in group.hidden().items()
    }


def wheel_filename(package: LockedPackage) -> str:
    """The wheel's file name; raises SourceOnlyPackage when the lock names another kind of file."""
    name = unquote(package.filename)
    if not name.endswith(".whl"):
        raise SourceOnlyPackage(
            f"{package.name} {package.version} is locked as {name}, which would have to be built",
            hint="pin a version that has a wheel, or put a wheel of it on an index",
        )
    return name


def promised_glibc(filename: str, supported: frozenset[Tag]) -> tuple[int, int] | None:
    """The oldest C library that the wheel promises to run with, None if it says nothing.

    Raises LockfileInvalid when no tag of the wheel is among ``supported``.
    """
    try:
        tags = parse_wheel_filename(filename)[3]
    except InvalidWheelFilename as error:
        raise LockfileInvalid(f"{filename} is not a wheel's name: {error}") from error
    if tags.isdisjoint(supported):
        wanted = next(tag for tag in sorted(map(str, supported)) if "manylinux" in tag)
        raise LockfileInvalid(
            f"{filename} is made for another interpreter or platform (the image wants, for instance, {wanted})",
            hint="lock again for this platform and Python version",
        )
    return wanted_glibc(tags, supported)


def cached_wheels(
    wheels: Mapping[LockedPackage, Path],
    *,
    target: WheelTarget,
    compiler: Compiler | None,
    cache: Path,
    run: Runner,
) -> dict[LockedPackage, Path]:
    """The tree of each installed and compiled wheel, made now if ``cache`` lacks it; read-only, starts at ``/``.

    One process compiles all of them: to start one takes as long as to compile twenty files.
    Raises LockfileInvalid for a wheel that breaks its own format, BuildFailed when it cannot be compiled.
    """
    tail = f"cp{target.short.replace('.', '')}-{wheel_key(target, compiler).hex[:12]}"
    places = {package: cache / "wheels" / f"{package.sha256}-{tail}" for package in wheels}
    packages = {place: package for package, place in places.items()}

    def make(roots: dict[Path, Path]) -> dict[str, str]:
        written: dict[str, str] = {}
        needed = sum(_needed(wheels[packages[place]], compiled=compiler is not None) for place in roots)
        with room_for(cache / "wheels", needed):
            for place, root in roots.items():
                package = packages[place]
                check_download(wheels[package], package)
                written |= _install(wheels[package], wheel_filename(package), target, root)
            if compiler is not None:
                compile_trees(list(roots.values()), f"{target.prefix}/lib", compiler, run=run)
            for root in roots.values():
                normalise_tree(root)
        return written

    cached_trees(list(places.values()), make)
    return places


def wheel_key(target: WheelTarget, compiler: Compiler | None) -> Digest:
    """What decides a tree besides the wheel's own bytes."""
    return digest_json(
        [
            version("installer"),
            RECIPE,
            target.prefix,
            target.short,
            str(target.platform),
            None if compiler is None else str(compiler.identity),
        ]
    )


class SpelledWheel(WheelFile):
    """A wheel under its locked name, whatever its file is called.

    Its ``.data`` folder may be spelled otherwise than the file's name, as pip allows (``Team.Tools-1.0.data`` in
    ``team_tools-1.0-….whl``).
    """

    def __init__(self, archive: zipfile.ZipFile, filename: str) -> None:
        archive.filename = filename
        super().__init__(archive)
        self._tops = {name.partition("/")[0] for name in archive.namelist()}

    @property
    def data_dir(self) -> str:
        """See WheelSource."""
        stated = super().data_dir
        return next((top for top in sorted(self._tops) if _is_spelled(top, stated)), stated)


def _is_spelled(folder: str, stated: str) -> bool:
    names = [each.removesuffix(".data").rpartition("-") for each in (folder, stated) if each.endswith(".data")]
    return len(names) == 2 and len({(canonicalize_name(name), version) for name, _, version in names}) == 1


class _Wheel(SpelledWheel):
    """As it is installed: without anybody else's bytecode."""

    def get_contents(self) -> Iterator[WheelContentElement]:
        for element in super().get_contents():
            if "__pycache__" not in element[0][0].split("/"):
                yield element


@dataclass
class _Destination(SchemeDictionaryDestination):
    """As its base class, with paths as text and each folder made once: half the time over thousands of files."""

    folders: set[str] = field(default_factory=set)
    written: dict[str, str] = field(default_factory=dict)

    def write_to_fs(self, scheme: Scheme, path: str, stream: BinaryIO, is_executable: bool) -> RecordEntry:
        inside = posixpath.normpath(path)
        if inside in (".", "..") or inside.startswith(("/", "../")):
            raise ValueError(f"{path} lies outside of the wheel's own folders")
        target = f"{self.destdir}{self.scheme_dict[scheme]}/{inside}"
        folder = posixpath.dirname(target)
        if folder not in self.folders:
            os.makedirs(folder, exist_ok=True)
            self.folders.add(folder)
        with open(target, "xb") as file:
            digest, size = copyfileobj_with_hashing(stream, file, self.hash_algorithm)
        if is_executable:
            make_file_executable(Path(target))
        self.written[target] = digest
        return RecordEntry(path, Hash(self.hash_algorithm, digest), size)


def _install(wheel: Path, filename: str, target: WheelTarget, root: Path) -> dict[str, str]:
    """Returns the sha256 of each file that it wrote."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            source = _Wheel(archive, filename)
            check_identity(source.read_dist_info("METADATA"), filename)
            destination = _Destination(
                target.schemes(source.distribution),
                interpreter=f"{target.prefix}/bin/python",
                script_kind="posix",
                destdir=str(root),
            )
            install(source, destination, {"INSTALLER": b"kbuild\n"})
            # RECORD's form is Base64 for urls, without its padding.
            return {path: urlsafe_b64decode(f"{digest}=").hex() for path, digest in destination.written.items()}
    except FileExistsError as error:
        raise broken_wheel(filename, f"it brings {_inside(error, target, root)} twice") from error
    except NotADirectoryError as error:
        raise broken_wheel(filename, f"it brings {posixpath.dirname(_inside(error, target, root))} twice") from error
    except (InvalidRecordEntry, csv.Error) as error:
        raise broken_wheel(filename, "its RECORD is no table of paths, hashes and sizes") from error
    except (InstallerError, KeyError, AssertionError, *BROKEN) as error:
        # installer asserts, without a word, on entry points that it cannot read, and gives itself with some reasons
        said = next((each for each in reversed(error.args) if isinstance(each, str)), "")
        raise broken_wheel(filename, said or str(error) or "it has an entry point that cannot be read") from error


def _inside(error: OSError, target: WheelTarget, root: Path) -> str:
    """The file that an error names, as the wheel has it."""
    path = str(error.filename).removeprefix(str(root))
    return path.removeprefix(f"{target.site_packages}/").removeprefix(f"{target.prefix}/")


def python_files(wheel: Path) -> set[str]:
    """The names of the Python files in a wheel; none where it cannot be read, which is told where it is installed."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return {name for name in archive.namelist() if name.endswith(".py")}
    except (zipfile.BadZipFile, OSError):
        return set()


def _needed(wheel: Path, *, compiled: bool) -> int:
    """Bytes on disk that its tree takes, about: files and directories in whole blocks, bytecode as large as source."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [(member.filename, member.file_size) for member in archive.infolist()]
    except (zipfile.BadZipFile, OSError):
        return 0  # told where it is installed
    sizes = [size for _, size in members] + [size * 5 // 4 for name, size in members if compiled and name[-3:] == ".py"]
    folders = {posixpath.dirname(name) for name, _ in members}
    return sum(-(-size // _BLOCK) * _BLOCK for size in sizes) + 2 * _BLOCK * (len(folders) + 2)
