"""Other versions of engines, from Debian's .debs unpacked into a folder and run in place; and tools installed from it.

Nothing of the machine's own packages changes for an unpacked engine: apt works on lists and a cache of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from engines import KEYRING, debian_mirror, no_services, only_one, require

# Docker of Debian 12, the last without a containerd image store and without zstd; and the newest that Debian has.
DOCKER_20 = ("bookworm", ("docker.io", "containerd"))
# Its own runc wants a newer C library than Debian 12's: the machine's is taken.
DOCKER_28 = ("sid", ("docker.io", "containerd"))


def unpack_engine(folder: Path, suite: str, packages: tuple[str, ...]) -> Path:
    """A folder with the files of these packages as they would be installed in ``/``; made once a run."""
    target = folder / f"{suite}-{'-'.join(packages)}"
    with only_one():
        if not target.is_dir():
            scratch = target.with_name(f".{target.name}")
            shutil.rmtree(scratch, ignore_errors=True)
            _unpack(scratch, suite, packages)
            scratch.rename(target)
    return target


def install_tools(*packages: str) -> None:
    """Install packages of the machine's own Debian release; skips where that cannot be."""
    with only_one():
        missing = [name for name in packages if not _is_installed(name)]
        if not missing:
            return
        require(os.geteuid() == 0 and shutil.which("apt-get"), f"installing {' '.join(missing)} takes root and Debian")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with no_services():
            for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
                done = subprocess.run(["apt-get", "-q", *command], env=env, capture_output=True, text=True)
                require(done.returncode == 0, f"apt-get {command[0]} failed: {done.stderr.strip()[-400:]}")


def _unpack(scratch: Path, suite: str, packages: tuple[str, ...]) -> None:
    require(shutil.which("apt-get") and KEYRING.is_file(), "engines are taken from Debian, and this is no Debian")
    apt = scratch.with_name(f"{scratch.name}-apt")
    for name in ("lists/partial", "cache/archives/partial", "sources", "none", "debs"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "sources/engines.sources").write_text(
        # A mirror's copy of sid may be old.
        f"Types: deb\nURIs: {debian_mirror()}\nSuites: {suite}\nComponents: main\nCheck-Valid-Until: no\n"
        f"Signed-By: {KEYRING}\n"
    )
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": apt / "sources",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": apt / "none",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    for command in (["update"], ["download", *(f"{name}/{suite}" for name in packages)]):
        done = subprocess.run(["apt-get", "-q", *options, *command], cwd=apt / "debs", capture_output=True, text=True)
        require(done.returncode == 0, f"apt-get {command[0]} of {suite} failed: {done.stderr.strip()[-400:]}")
    scratch.mkdir(parents=True)
    for deb in sorted((apt / "debs").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(deb), str(scratch)], check=True)
    shutil.rmtree(apt)


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"
