"""What an image will have of this machine, for the clean process: its interpreter, its packages, its C libraries.

All else (the project, the home folder, other packages, the rest of the disk) is not to be found there.
"""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.recording.around.installed import read_installed
from kbuild.recording.around.interpreter import find_interpreter_names, find_interpreter_paths
from kbuild.recording.around.system import FILES, FOLDERS, find_binds, find_covered, find_links
from kbuild.recording.shipment.closure import describe

NONROOT = 65532
"""The uid that an image runs with."""
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
    """Paths that may be read: ``binds`` whole, of ``covered`` folders the names in them, outermost first; ``links``,
    ``folders`` and ``files`` are made. ``hidden`` are distributions that the image will not have, by canonical name;
    ``changed`` are files of those that it will have, which are not as they were installed."""

    binds: tuple[str, ...]
    covered: Mapping[str, tuple[str, ...]]
    links: Mapping[str, str]
    folders: tuple[str, ...]
    files: Mapping[str, str]
    hidden: frozenset[str]
    changed: tuple[str, ...]


def find_surroundings(closure: Iterable[str], base: str | None = None) -> Surroundings:
    """Of an image with these distributions, the running interpreter and a project's ``base``."""
    present = {canonicalize_name(name) for name in closure}
    folders = _site_folders()
    binds = [path for path in (*find_binds(base), *find_interpreter_paths()) if os.path.lexists(path)]
    # A virtual environment does not import its interpreter's packages.
    installed = [read_installed(present if str(folder) in sys.path else (), folder) for folder in folders]
    owned = {*folders, *(path for each in installed for path in each.outside)}
    covered = [
        *find_covered(base),
        *find_interpreter_names(owned),
        *((each.folder, each.tops) for each in installed),
        *(extra for each in installed for extra in each.find_extra()),
    ]
    return Surroundings(
        binds=tuple(dict.fromkeys(binds)),
        covered={str(folder): tuple(sorted(names)) for folder, names in covered},
        links=find_links(),
        folders=FOLDERS,
        files=FILES,
        hidden=frozenset(canonicalize_name(name) for each in metadata.distributions() if (name := describe(each)[0]))
        - present,
        changed=tuple(path for each in installed for path in each.changed),
    )


def make_variables() -> dict[str, str]:
    """What an image sets, and nothing of this machine but where its C libraries are."""
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    kept = {name: os.environ[name] for name in LOADER_VARIABLES if name in os.environ}
    return {**_VARIABLES, "PATH": path, **kept}


def _site_folders() -> list[Path]:
    # Of a virtual environment's interpreter too: its packages are not imported, and can be read.
    base = [f"{sysconfig.get_path('stdlib')}/{name}" for name in ("site-packages", "dist-packages")]
    named = [*base, *site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    named += [each for each in sys.path if re.search(r"(site|dist)-packages$", each)]
    return [folder for folder in dict.fromkeys(map(Path, named)) if folder.is_dir()]
