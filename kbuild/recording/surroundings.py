"""What an image will have of this machine, for the clean process: its interpreter, its packages, its C libraries.

All else (the project, the home folder, other packages, the rest of the disk) is not to be found there.
"""

from __future__ import annotations

import csv
import os
import re
import site
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.files import expand_home
from kbuild.recording.shipment.closure import describe

# C libraries, certificates and time zones: what kbuild's base images have. The first two are links since Debian 12.
_LINKS = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")
_SYSTEM = (
    "/usr/lib64", "/lib", "/lib64", "/usr/lib/locale", "/usr/share/zoneinfo", "/etc/ssl", "/etc/pki", "/usr/lib/ssl",
    "/usr/share/ca-certificates", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/resolv.conf",
    "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime", "/etc/alternatives",
)  # fmt: skip
NONROOT = 65532
"""The uid that an image runs with."""
_FILES = {
    "/etc/passwd": f"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/tmp:/sbin/nologin\n",
    "/etc/group": f"root:x:0:\nnonroot:x:{NONROOT}:\n",
}
# Prefixes that hold more than an interpreter.
_SHARED_PREFIXES = {Path("/"), Path("/usr"), Path("/usr/local"), expand_home("~")}
# What venv makes, besides the folders of packages.
_VIRTUAL = ("pyvenv.cfg", "bin", "include")
# As the image sets them (kbuild/plan/make.py), and what keeps libraries from talking.
_VARIABLES = {
    "HOME": "/tmp",  # noqa: S108  the only place a read-only container can write to
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRACKING_URI": "sqlite:////tmp/unused.db",
}
# What an interpreter may need to start at all; it is taken away when it has.
LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Paths that may be read: ``binds`` whole, of ``covered`` folders the names in them; ``links`` and ``files`` are
    made. ``hidden`` are distributions that the image will not have, by canonical name."""

    binds: tuple[str, ...]
    covered: Mapping[str, tuple[str, ...]]
    links: Mapping[str, str]
    files: Mapping[str, str]
    hidden: frozenset[str]


def find_surroundings(closure: Iterable[str]) -> Surroundings:
    """Of an image with these distributions and the running interpreter."""
    present = {canonicalize_name(name) for name in closure}
    folders = _site_folders()
    binds = [path for path in _interpreter_paths() if os.path.lexists(path)]
    triplet = sysconfig.get_config_var("MULTIARCH")
    system = [*_SYSTEM, *([f"/usr/lib/{triplet}"] if triplet else [])]
    links = {each: str(Path(each).readlink()) for each in _LINKS if Path(each).is_symlink()}
    binds = [*(each for each in system if Path(each).exists() and each not in links), *binds]
    return Surroundings(
        binds=tuple(dict.fromkeys(binds)),
        covered={
            str(folder): tuple(sorted(names))
            for folder, names in [
                *_names_of_environment(present, folders),
                *((each, _names_of(present, each)) for each in folders),
            ]
        },
        links=links,
        files=_FILES,
        hidden=frozenset(canonicalize_name(name) for each in metadata.distributions() if (name := describe(each)[0]))
        - present,
    )


def make_variables() -> dict[str, str]:
    """What an image sets, and nothing of this machine but where its C libraries are."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    kept = {name: os.environ[name] for name in LOADER_VARIABLES if name in os.environ}
    return {**_VARIABLES, "PATH": path, **kept}


def _interpreter_paths() -> list[str]:
    found: list[Path] = []
    for prefix in dict.fromkeys(map(Path, (sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix))):
        for each in dict.fromkeys((prefix, prefix.resolve())):
            if each not in _SHARED_PREFIXES:
                found.append(each)
    program = Path(sys.executable)
    while True:
        found += [program] if not any(program.is_relative_to(each) for each in found) else []
        if not program.is_symlink():
            break
        program = program.parent / program.readlink()
    found += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    library = sysconfig.get_config_var("LDLIBRARY"), sysconfig.get_config_var("LIBDIR")
    if all(library):
        found += list(Path(str(library[1])).glob(f"{library[0]}*"))
    kept: list[Path] = []
    for each in found:
        if not any(each.is_relative_to(other) for other in kept):
            kept.append(each)
    return [str(each) for each in kept]


def _site_folders() -> list[Path]:
    # Of a virtual environment's interpreter too: its packages are not imported, and can be read.
    base = [f"{sysconfig.get_path('stdlib')}/{name}" for name in ("site-packages", "dist-packages")]
    named = [*base, *site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    named += [each for each in sys.path if re.search(r"(site|dist)-packages$", each)]
    return [folder for folder in dict.fromkeys(map(Path, named)) if folder.is_dir()]


def _names_of(present: Collection[str], folder: Path) -> set[str]:
    """What the distributions that are present have directly in a folder of packages."""
    names: set[str] = set()
    for each in metadata.distributions(path=[str(folder)]):
        name = describe(each)[0]
        if not name or canonicalize_name(name) not in present:
            continue
        files = _first_parts(each)
        names |= files - {"..", "", "__pycache__"}
        if not files:
            names |= set((each.read_text("top_level.txt") or name.replace("-", "_")).split())
        own = getattr(each, "_path", None)  # the folder of its metadata, which some installers do not list
        if own is not None:
            names.add(Path(own).name)
    return {name for name in names if (folder / name).exists()}


def _names_of_environment(present: Collection[str], folders: Iterable[Path]) -> Iterator[tuple[Path, set[str]]]:
    """What a virtual environment has by itself and by the distributions that are present, outermost folder first: not
    what programs downloaded into it."""
    prefix = Path(sys.prefix)
    if sys.prefix == sys.base_prefix or (prefix / "conda-meta").is_dir():
        return
    owned = {prefix / name for name in (*_VIRTUAL, Path(sysconfig.get_path("stdlib")).relative_to(sys.base_prefix))}
    owned |= set(folders)
    for folder in folders:
        for each in metadata.distributions(path=[str(folder)]):
            if canonicalize_name(describe(each)[0] or "") in present:
                rows = csv.reader((each.read_text("RECORD") or "").splitlines())
                owned |= {Path(os.path.normpath(folder / row[0])) for row in rows if row and row[0].startswith("..")}
    for place in dict.fromkeys((prefix, prefix.resolve())):
        for outer in (prefix, prefix / "lib", prefix / "share"):
            parts = {each.relative_to(outer).parts[0] for each in owned if outer in each.parents}
            names = {name for name in parts if (outer / name).exists()}
            if outer == prefix or names:
                yield place / outer.relative_to(prefix), names


def _first_parts(distribution: metadata.Distribution) -> set[str]:
    """Where the paths of its files begin; of an absolute one that is ''."""
    record = distribution.read_text("RECORD")
    if not record:
        return {"" if file.is_absolute() else file.parts[0] for file in distribution.files or () if file.parts}
    # Not as ``files``, which may look for every one of them on the disk.
    return {row[0].partition("/")[0] for row in csv.reader(record.splitlines()) if row}
