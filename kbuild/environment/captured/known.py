"""What was captured before: an interpreter of which nothing changed since is not packaged again.

A record beside the packages of the local channel holds the size, time and inode of every file that went into one, and
what is known of the package. What says which shared libraries are found counts too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import zstandard

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.cache.tree import stamp
from kbuild.digest import digest_file, digest_json
from kbuild.environment.captured.conda_package import WrittenPackage

# What ldd looks into beside the files themselves.
_LIBRARY_CACHE = Path("/etc/ld.so.cache")
_VARIABLES = ("LD_LIBRARY_PATH", "LD_PRELOAD")
# Whoever changes how a package is made changes these, and no record of before counts.
_MAKERS = ("capture.py", "conda_package.py", "elf.py", "known.py", "strip.py")

Stamps = Mapping[str, Sequence[int]]


def stamps(paths: Iterable[Path]) -> dict[str, list[int]]:
    """The stamp of each file, by path; raises OSError."""
    return {str(path): stamp(path) for path in paths}


def record_path(channel: Path, interpreter: Sequence[str], patchelf: Path | None) -> Path:
    """Where the package of an interpreter is remembered, by what it is and what makes packages here; raises OSError."""
    tools = [Path(each) for each in (patchelf, _LIBRARY_CACHE) if each is not None and Path(each).is_file()]
    made_by = [
        *(digest_file(Path(__file__).with_name(name)).hex for name in _MAKERS),
        zstandard.__version__,
        list(zstandard.ZSTD_VERSION),
        stamps(tools),
        {name: os.environ.get(name) for name in _VARIABLES},
    ]
    return channel / "captured" / f"{digest_json([list(interpreter), made_by]).hex}.json"


def write_record(path: Path, sources: Stamps, package: WrittenPackage, glibc: str) -> None:
    """Remember a package and the files it was made of; raises OSError."""
    value = {"sources": sources, "package": package.path.name, "record": package.record, "glibc": glibc}
    write_vouched(path, json.dumps(value).encode())


def read_record(path: Path, sources: Stamps, folder: Path) -> tuple[WrittenPackage, str] | None:
    """The package in ``folder`` and its glibc, None where it is not there whole or was made of anything else.

    ``sources`` are the files that the interpreter has now, shared libraries apart. Raises OSError.
    """
    try:
        known = json.loads(read_vouched(path))
        earlier = known["sources"]
        libraries = stamps(Path(each) for each in earlier if each not in sources)
        package = WrittenPackage(path=folder / known["package"], record=known["record"])
        whole = digest_file(package.path) == package.sha256
        glibc = str(known["glibc"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return (package, glibc) if whole and earlier == {**sources, **libraries} else None
