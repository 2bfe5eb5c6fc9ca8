"""Links conda packages into a prefix; started by conda.py as a process of its own, imports nothing of kbuild.

A process of its own because py-rattler may crash while an interpreter that used it shuts down.
Reads JSON from stdin: archives, target, cache, prefix, platform.

rattler reads and writes whatever path a package lists. So it first unpacks all of them into its cache; what lies there
is judged (an archive may hold a file twice, of which the last counts), and rattler then links from there.
Formats: conda's docs, "Conda package specification": ``info/paths.json``, of packages of before 2017 ``info/files``;
``info/link.json`` of noarch Python packages. rattler puts aside under ``__clobbers__`` what two packages bring.
"""

import sys

sys.path.pop(0)  # this file's own directory, whose modules would hide installed packages of the same name

import asyncio
import json
import os
from fnmatch import fnmatch
from pathlib import Path

from rattler import install
from rattler.networking import Client
from rattler.package import IndexJson, PathsEntry, PathsJson
from rattler.package_cache import PackageCache
from rattler.package_streaming import download_and_extract
from rattler.platform import Subdir
from rattler.repo_data import RepoDataRecord

_READ = ("index.json", "paths.json", "link.json", "files", "has_prefix", "no_link", "no_softlink")  # by rattler
_LARGEST = 128 << 20  # bytes of a list; that of 100,000 files has 25 million


class Prefix:
    """What all packages together will write into a prefix, and which of it are links.

    Nothing may be written below a link, also where that leads to a folder of the prefix: packages are linked side by
    side, so that it depends on the moment what is written where.
    """

    def __init__(self, site_packages: str) -> None:
        self._site_packages = site_packages
        self._links: dict[str, str] = {}  # target -> package
        self._written: list[tuple[str, str]] = []  # package, target
        self._own: list[tuple[str, str]] = []

    def add(self, package: str, folder: Path) -> None:
        """Raises ValueError for a package that lists what lies outside of it, or is listed as what it is not."""
        for name in ("info", *(f"info/{each}" for each in _READ)):
            each = folder / name
            if each.is_symlink():
                raise ValueError(f"{package} has a link for {name}")
            if each.exists() and each.stat().st_size > _LARGEST:
                raise ValueError(f"{package} has an {name} of {each.stat().st_size / 1e6:.0f} MB")
        noarch = IndexJson.from_package_directory(folder).noarch.python
        links: set[str] = set()
        seen: set[str] = set()
        for path, entry in _list(package, folder):
            target = self._target(path) if noarch else path
            if target.split("/")[0] == "__clobbers__" or fnmatch(target, "conda-meta/*.json"):
                raise ValueError(f"{package} lists {path}, where only the installer writes")
            for parent in _parents(path):
                if parent in links or (folder / parent).is_symlink():
                    raise ValueError(f"{package} lists {path}, though it brings {parent} as a link")
            is_link = (folder / path).is_symlink()
            followed = not entry.path_type.softlink or entry.no_link or entry.prefix_placeholder is not None
            if is_link and followed and not (folder / path).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{package} lists {path} to be copied, a link that leads out of it")
            if target in seen and (is_link or target in self._links):
                raise ValueError(f"{package} lists {path} twice, a link")
            seen.add(target)
            if is_link:
                self._links.setdefault(target, package)
            if is_link or entry.path_type.softlink:
                links.add(path)
            self._written.append((package, target))
        for command in _entry_points(folder) if noarch else ():
            self.add_own(package, f"bin/{command}")

    def add_own(self, package: str, target: str) -> None:
        """What rattler writes by itself."""
        self._own.append((package, target))

    def check(self) -> None:
        """Raises ValueError for a package that writes through another's link."""
        for package, target in (*self._written, *self._own):
            link = next((each for each in _parents(target) if each in self._links), None)
            if link is not None:
                raise ValueError(f"{package} brings {target}, though {self._links[link]} brings {link} as a link")
        for package, target in self._own:
            if target in self._links:
                raise ValueError(f"{package} brings {target}, which {self._links[target]} brings as a link")

    def _target(self, path: str) -> str:
        """Where a file of a noarch Python package belongs."""
        top, _, rest = path.partition("/")
        places = {"site-packages": self._site_packages, "python-scripts": "bin"}
        return f"{places[top]}/{rest}" if rest and top in places else path


def _list(package: str, folder: Path) -> list[tuple[str, PathsEntry]]:
    """What rattler will link. Each path as it is written: rattler tells it without empty parts, but tells the files of
    two packages apart with them."""
    try:
        written = [each["_path"] for each in json.loads((folder / "info/paths.json").read_bytes())["paths"]]
    except FileNotFoundError:
        lines = (folder / "info/files").read_bytes().decode().split("\n")
        written = [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
    for path in written:
        if not {"", ".", ".."}.isdisjoint(path.replace("\\", "/").split("/")):
            raise ValueError(f"{package} lists {path}, which lies outside of its prefix or has empty parts")
    entries = PathsJson.from_package_directory_with_deprecated_fallback(folder).paths
    if [str(entry.relative_path) for entry in entries] != written:
        raise ValueError(f"two readers find different paths in what {package} lists")
    return list(zip(written, entries, strict=True))


def _parents(path: str) -> list[str]:
    """The folders that a path is in, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _entry_points(folder: Path) -> list[str]:
    """The commands of a noarch Python package; rattler takes none with a path separator."""
    try:
        noarch = json.loads((folder / "info/link.json").read_bytes())["noarch"]
    except FileNotFoundError:
        return []
    return [str(each).partition("=")[0].strip() for each in noarch.get("entry_points", ())]


def site_packages(records: list[RepoDataRecord]) -> str:
    """Where the packages of Python belong; raises ValueError where Python itself says they belong elsewhere."""
    for record in records:
        if record.name.normalized == "python":
            stated = record.python_site_packages_path
            if stated is not None and not {"", ".", ".."}.isdisjoint(stated.split("/")):
                raise ValueError(f"{record.file_name} has its packages in {stated}, which lies outside of its prefix")
            return stated or f"lib/python{'.'.join(str(record.version).split('.')[:2])}/site-packages"
    return "site-packages"


async def unpack(archive: str, cache: Path) -> tuple[RepoDataRecord, Path]:
    """A package in the place where rattler looks for it before it unpacks anything itself."""
    record = await RepoDataRecord.from_package_archive(Path(archive))
    name = f"{record.name.normalized}-{record.version}-{record.build}"
    if "/" in name:
        raise ValueError(f"{record.file_name} calls itself {name}")
    await download_and_extract(Client(), Path(archive).as_uri(), cache / name)
    unpacked = IndexJson.from_package_directory(cache / name)
    if f"{unpacked.name.normalized}-{unpacked.version}-{unpacked.build}" != name:
        raise ValueError(f"{record.file_name} has two different info/index.json")
    if unpacked.python_site_packages_path != record.python_site_packages_path:
        raise ValueError(f"{record.file_name} has two different info/index.json")
    record.url = f"file:///nowhere/{record.file_name}"  # so that it links what was judged, or nothing
    return record, cache / name


async def main() -> None:
    order = json.load(sys.stdin)
    cache = Path(order["cache"])
    cache.mkdir()
    unpacked = await asyncio.gather(*(unpack(path, cache) for path in order["archives"]))
    records = [record for record, _ in unpacked]
    prefix = Prefix(site_packages(records))
    for record, folder in unpacked:
        prefix.add(record.file_name, folder)
        prefix.add_own(record.file_name, f"conda-meta/{folder.name}.json")
    for each in ("conda-meta/history", "CACHEDIR.TAG"):
        prefix.add_own("rattler", each)
    prefix.check()
    await install(
        records,
        order["target"],
        package_cache=PackageCache(cache),
        installed_packages=[],
        platform=Subdir(order["platform"]),
        execute_link_scripts=False,
        show_progress=False,
        alternative_target_prefix=order["prefix"],
    )


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except Exception as error:  # noqa: BLE001 the parent process shows one line, whatever went wrong here
        print(f"{error}".replace("\n", " "), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
