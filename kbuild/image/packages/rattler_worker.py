"""Links conda packages into a prefix; started by conda_packages.py as a process of its own, imports nothing of kbuild.

A process of its own because py-rattler may crash while an interpreter that used it shuts down.
Reads JSON from stdin: archives, target, cache, prefix, platform.
"""

import sys

sys.path.pop(0)  # this file's own directory, whose modules would hide installed packages of the same name

import asyncio
import json
import os

from rattler import install
from rattler.platform import Subdir
from rattler.repo_data import RepoDataRecord


async def main() -> None:
    order = json.load(sys.stdin)
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
