"""Whether a lock's packages of a folder are those that the folders of channels and of pip's configuration offer here.

A lock's input digest leaves the place of such a folder out: its packages travel with the lock, and others are to find
it fresh without the folder. But one that is here and offers other files of these names would give another lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.digest import digest_file
from kbuild.environment.index.folders import digests_here
from kbuild.environment.links import is_local_channel, local_path
from kbuild.environment.lockfile import SDIST_MARK, LockedPackage, Lockfile
from kbuild.environment.spec import EnvironmentSpec
from kbuild.errors import OutputError


def channel_folders(channels: Iterable[str]) -> list[Path]:
    """Those of a spec's channels that are folders of this machine, there or not."""
    return [Path(url) if url.startswith("/") else local_path(url) for url in channels if is_local_channel(url)]


def not_offered(lockfile: Lockfile, spec: EnvironmentSpec) -> str | None:
    """What a lock has of a folder and the folders of ``spec`` do not offer, as a sentence; None where all is theirs.

    A folder that is not here might offer anything. More than the lock has may be there, as in a channel on a server:
    a lock stays fresh when its channel grows. Raises OutputError for a package that cannot be read.
    """
    folders = channel_folders(spec.channels)
    if not folders or not all(folder.is_dir() for folder in folders):
        return None
    for package in lockfile.packages:
        own = package.name == "python" and spec.interpreter == "captured"
        if package.manager != "conda" or own or not package.is_captured:
            continue
        if not any(_has(folder, package) for folder in folders):
            places = ", ".join(map(str, folders))
            return f"{package.filename} of the lock (sha256 {package.sha256[:12]}…) is not what {places} has"
    return None


def has_other_wheel(lockfile: Lockfile, spec: EnvironmentSpec) -> bool:
    """Whether a folder of pip's configuration has a wheel of the lock as another file: it was made anew, and is what
    training has. A folder without the file says nothing."""
    for package in lockfile.packages:
        if package.manager == "pip" and package.is_captured and SDIST_MARK not in package.url:
            name = canonicalize_name(package.name)
            there = digests_here(name, package.filename, (*spec.find_links, *spec.indexes))
            if there and package.sha256 not in there:
                return True
    return False


def _has(folder: Path, package: LockedPackage) -> bool:
    for subdir in (package.platform.conda_subdir, "noarch"):
        path = folder / subdir / package.filename
        try:
            if path.is_file() and digest_file(path).hex == package.sha256:
                return True
        except OSError as error:
            raise OutputError(f"cannot read {path}: {error.strerror}") from error
    return False
