"""Installs a lock's packages in a builder stage; started there by in-container.Dockerfile.j2, never on this machine.

``packages`` makes the layers' folders at the stage's root (``/interpreter``, ``/dependencies`` ...) with the very code
that stages them here, ``code`` compiles what was copied there. See install_context.py for what it is given.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from kbuild.cache.linking import link_roots
from kbuild.cache.notes import KEY_VARIABLE
from kbuild.cache.tree import normalise_tree
from kbuild.environment.index.download import fetch_packages
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.lockfile import Lockfile, parse_lockfile
from kbuild.errors import BuildFailed, KbuildError
from kbuild.image.packages.bytecode import compile_trees, find_compiler
from kbuild.image.packages.environment import PREFIX, Environment, environment_recipe
from kbuild.plan.split import PackageGroup, read_group
from kbuild.platform import Platform
from kbuild.process import run

_FOLDER = Path("/kbuild-install")
_CACHE = Path("/kbuild-cache")
_SECRETS = Path("/run/secrets")
_SCRATCH = Path("/tmp")  # noqa: S108  in memory, gone with the step


class _Printed:
    """A Progress on stdout, which BuildKit shows."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    tell = made = note

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        """Too much for a build's log."""


def install_packages(root: Path = Path("/")) -> None:
    """Make the folders of the interpreter's and the packages' layers below ``root``; raises KbuildError."""
    order = json.loads((_FOLDER / "install.json").read_bytes())
    platform = Platform.parse(order["platform"])
    if str(environment_recipe(order["python"], platform)) != order["recipe"]:
        raise BuildFailed(f"this stage would install otherwise than planned: is it a {platform} machine?")
    lockfile = parse_lockfile((_FOLDER / "conda-lock.yml").read_bytes(), source="conda-lock.yml")
    groups = _groups(order, lockfile, platform)
    interpreter = order["interpreter"]
    names = [interpreter, *(group.name for group in groups)]
    taken = [name for name in names if (root / name).exists()]
    if taken:
        raise BuildFailed(f"the image to install in already has /{taken[0]}", hint="choose another --install-base")
    access = _access()
    environment = Environment(lockfile, platform, cache=_CACHE, run=run)
    downloads = fetch_packages(
        environment.missing(names, groups),
        cache=_CACHE / "downloads",
        channel=_FOLDER / "channel",
        progress=_Printed(),
        **access,
    )
    trees: dict[str, tuple[Path, ...]] = {interpreter: (environment.interpreter(downloads),)}
    trees |= environment.wheels(groups, downloads, into=root, progress=_Printed())
    environment.check_bytecode([tree for roots in trees.values() for tree in roots], downloads, _Printed())
    for name, roots in trees.items():
        link_roots(roots, root / name)


def compile_code(root: Path = Path("/")) -> None:
    """Compile runtime and project below ``root`` with the interpreter that lies there; raises KbuildError."""
    order = json.loads((_FOLDER / "install.json").read_bytes())
    platform = Platform.parse(order["platform"])
    compiler = find_compiler(root / order["interpreter"], PREFIX, order["python"], platform)
    for name in sys.argv[2:]:
        if compiler is not None:
            compile_trees([root / name], "", compiler, run=run, jobs=os.cpu_count() or 1)
        normalise_tree(root / name)


def _groups(order: dict[str, Any], lockfile: Lockfile, platform: Platform) -> list[PackageGroup]:
    known = {package.sha256: package for package in lockfile.for_platform(platform)}
    return [read_group(group, known) for group in order["groups"]]


def _access() -> dict[str, Any]:
    """How to reach the packages' servers, from the secrets where there are any; and the key of the cache, set here.

    What lies in a builder's cache without that key counts for nothing: others build there, too.
    """
    os.environ.setdefault(KEY_VARIABLE, secrets.token_hex(32))
    environ = dict(os.environ)
    certificates = _SECRETS / "kbuild-certificates"
    if certificates.is_file():
        environ["REQUESTS_CA_BUNDLE"] = str(certificates)
    secret = _SECRETS / "kbuild-indexes"
    if not secret.is_file():
        return {"environ": environ, "indexes": None}
    value = json.loads(secret.read_bytes())
    os.environ[KEY_VARIABLE] = value["cache_key"]
    if value["netrc"]:
        netrc = _SCRATCH / "netrc"
        netrc.write_text(value["netrc"], encoding="utf-8")
        os.environ["NETRC"] = str(netrc)  # requests looks there
    indexes = Indexes(urls=tuple(value["urls"]), environment=value["environment"])
    return {"environ": {**environ, **value["environment"]}, "indexes": indexes}


if __name__ == "__main__":
    try:
        {"packages": install_packages, "code": compile_code}[sys.argv[1]]()
    except KbuildError as error:
        print(f"{error.message}{f' ({error.hint})' if error.hint else ''}", file=sys.stderr)
        sys.exit(1)
