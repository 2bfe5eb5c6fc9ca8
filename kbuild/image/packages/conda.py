"""Conda packages under a destdir: py-rattler links them, and what it writes about this machine is taken out again.

Formats: conda's package specification (``conda-meta/*.json`` is documented with conda's "Managing environments").
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from kbuild.digest import canonical_json
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import BuildFailed
from kbuild.process import Runner

_WORKER = Path(__file__).with_name("rattler_worker.py")
# What a scanner needs to know the package by; paths, times and requests of this machine are not among it.
_KEPT = (
    "name", "version", "build", "build_number", "subdir", "noarch", "depends", "constrains", "license", "timestamp",
    "md5", "size",
)  # fmt: skip


def install_conda_packages(
    archives: Mapping[LockedPackage, Path], *, root: Path, prefix: str, scratch: Path, run: Runner
) -> None:
    """Install the archives at ``prefix`` below ``root``, every embedded prefix naming the in-image path.

    Link scripts are not executed. ``scratch`` is an empty directory on the same file system, removed at the end.
    Raises BuildFailed when an archive is damaged.
    """
    target = root / prefix.lstrip("/")
    target.mkdir(parents=True)
    names = scratch / "archives"
    names.mkdir()
    paths = []
    for package in sorted(archives):
        # The tools read name and version from the file's name, which the download cache may have changed.
        link = names / package.filename
        link.symlink_to(archives[package].absolute())
        paths.append(str(link))
    order = {
        "archives": paths,
        "target": str(target),
        "cache": str(scratch / "rattler"),
        "prefix": prefix,
        "platform": min(archives).platform.conda_subdir,
    }
    done = run([sys.executable, str(_WORKER)], stdin=json.dumps(order))
    if done.returncode != 0:
        reason = done.stderr.strip().rsplit("\n", 1)[-1] or f"exit code {done.returncode}"
        raise BuildFailed(f"the conda packages cannot be installed: {reason}")
    _forget_machine(target, archives)
    shutil.rmtree(scratch)


def _forget_machine(target: Path, archives: Mapping[LockedPackage, Path]) -> None:
    for name in ("CACHEDIR.TAG", "conda-meta/history"):
        (target / name).unlink(missing_ok=True)
    # Compiled by whoever built the package, with times that no longer hold: bytecode.py writes them anew.
    for each in sorted(target.rglob("__pycache__")):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()
    locked = {package.name: package for package in archives}
    for path in (target / "conda-meta").glob("*.json"):
        record = json.loads(path.read_bytes())
        kept = {key: record[key] for key in _KEPT if record.get(key) is not None}
        package = locked.get(record["name"])
        if package is None:
            raise BuildFailed(f"a conda package calls itself {record['name']}, by which name the lock has none")
        files = sorted(file for file in record["files"] if "__pycache__/" not in file)
        # Not the url, nor the name that the file has there: a mirror gives the same image.
        ending = ".tar.bz2" if package.filename.endswith(".tar.bz2") else ".conda"
        name = "-".join(str(record[key]) for key in ("name", "version", "build"))
        kept |= {"fn": f"{name}{ending}", "sha256": package.sha256, "files": files}
        path.write_bytes(canonical_json(kept) + b"\n")
