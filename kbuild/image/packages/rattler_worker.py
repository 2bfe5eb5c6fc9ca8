"""Links conda packages into a prefix; started by conda_packages.py as a process of its own, imports nothing of kbuild.

A process of its own because py-rattler may crash while an interpreter that used it shuts down.
Reads JSON from stdin: archives, target, cache, prefix, platform.
"""

import sys

sys.path.pop(0)  # this file's own directory, whose modules would hide installed packages of the same name

import asyncio
import json
import os
import tarfile

from rattler import install
from rattler.package import PathsJson
from rattler.platform import Subdir
from rattler.repo_data import RepoDataRecord


def check_paths(archive: str) -> None:
    """Raises ValueError for a package that lists files outside of its prefix: rattler would link them there."""
    name = archive.rpartition("/")[2]
    links, paths = set(), []
    for path, is_link in list_paths(archive):
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{name} lists {path}, which lies outside of its prefix")
        paths.append(path)
        if is_link:
            links.add(path)
    for path in paths if links else ():
        folder = path.rpartition("/")[0]
        while folder:
            if folder in links:
                raise ValueError(f"{name} lists {path}, though it brings {folder} as a link")
            folder = folder.rpartition("/")[0]


def list_paths(archive: str) -> list[tuple[str, bool]]:
    """What a package says it brings, and whether it is a link: ``info/paths.json``, of packages of before 2017 the
    lines of ``info/files`` (conda's docs, "Conda package specification")."""
    if archive.endswith(".conda"):
        return of_json(PathsJson.from_package_archive(archive))
    with tarfile.open(archive, "r|bz2") as members:
        listed: list[tuple[str, bool]] = []
        for member in members:
            if member.name in ("info/paths.json", "info/files"):
                file = members.extractfile(member)
                text = "" if file is None else file.read().decode()
                if member.name == "info/paths.json":
                    return of_json(PathsJson.from_str(text))
                listed = [(line, False) for line in text.splitlines()]
    return listed


def of_json(paths: PathsJson) -> list[tuple[str, bool]]:
    return [(str(entry.relative_path), entry.path_type.softlink) for entry in paths.paths]


async def main() -> None:
    order = json.load(sys.stdin)
    for path in order["archives"]:
        check_paths(path)
    records = [await RepoDataRecord.from_package_archive(path) for path in order["archives"]]
    await install(
        records,
        order["target"],
        cache_dir=order["cache"],
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
