"""What a builder stage needs to install a lock's packages by itself: the lock, and the part of kbuild that does it.

The folders ``kbuild-install`` (packages) and ``kbuild-code`` (what the image's interpreter compiles) of the build
context, which ``dockerfiles/in-container.Dockerfile.j2`` copies into that stage.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import get_netrc_auth

import kbuild
from kbuild.cache.notes import derive_key
from kbuild.cache.tree import make_directory, normalise_tree, writing
from kbuild.digest import canonical_json
from kbuild.environment.index.download import find_captured
from kbuild.environment.links import is_local
from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.locking.lock_model import Locked
from kbuild.environment.locking.stored import captured_packages
from kbuild.errors import BaseImageError, PlatformError
from kbuild.image.base.choice import parse_base
from kbuild.image.base.resolve import resolve_layout
from kbuild.image.engines.dockerfile import parse_dockerfile, read_exec_form, take_flags
from kbuild.image.packages.environment import environment_recipe
from kbuild.model.bundle import ModelBundle
from kbuild.plan.context import stage_files, stage_runtime
from kbuild.plan.make import INTERPRETER_LAYER, RUNTIME_LAYER
from kbuild.plan.render import DEFAULT_INSTALL_BASE, INSTALL_FOLDER, Template
from kbuild.plan.split import PROJECT_LAYER, PackageGroup, group_json, split_model
from kbuild.platform import Platform, host_platform
from kbuild.urls.credentials import own_variables

CODE_FOLDER = "kbuild-code"
INDEXES_SECRET = "kbuild-indexes"  # noqa: S105  a name
CERTIFICATES_SECRET = "kbuild-certificates"  # noqa: S105  a name

# What install_worker.py imports, in the very versions that are installed here: they decide the image's bytes.
_TOOLS = (
    "certifi",
    "charset-normalizer",
    "idna",
    "installer",
    "packaging",
    "py-rattler",
    "pyyaml",
    "requests",
    "urllib3",
)
_INSTALL_CONTEXT = "kbuild-install-base"


def context_sources(dockerfile: str) -> frozenset[str]:
    """The first path segments that COPY takes from the build context, other stages left out."""
    found = set()
    for instruction in parse_dockerfile(dockerfile):
        if instruction.name in ("COPY", "ADD"):
            flags, rest = take_flags(instruction)
            if "from" not in flags:
                words = read_exec_form(rest) or rest.split()
                found |= {word.lstrip("./").partition("/")[0] for word in words[:-1]}
    return frozenset(found)


def write_install_context(
    locked: Locked, platform: Platform, groups: Sequence[PackageGroup], bundle: ModelBundle, *, owned: bool, into: Path
) -> None:
    """Write the two folders below ``into``. ``owned`` as for ``stage_files``.

    Raises PlatformError for another platform than this machine's, whose tools are what is sent,
    InterpreterCaptureFailed and OutputError.
    """
    if platform != host_platform():
        raise PlatformError(
            f"a builder stage for {platform} cannot be prepared on {host_platform()}: its tools are sent from here",
            hint="leave out --template in-container: packages for other platforms are put in place without a stage",
        )
    folder = into / INSTALL_FOLDER
    with writing("the build context"):
        make_directory(folder)
        (folder / "conda-lock.yml").write_bytes(locked.lockfile.content)
        for package in captured_packages(locked.lockfile):
            if package.platform == platform:
                target = folder / "channel" / package.filename
                make_directory(target.parent)
                shutil.copyfile(find_captured(package, locked.channel), target)
        _copy_tools(folder / "tools")
        code = into / CODE_FOLDER
        stage_runtime(code / RUNTIME_LAYER)
        project = split_model(bundle).get(PROJECT_LAYER)
        if project is not None:
            stage_files(bundle, project, code / PROJECT_LAYER, move=owned)
        order = {
            "platform": str(platform),
            "python": locked.spec.python,
            "recipe": str(environment_recipe(locked.spec.python, platform)),
            "interpreter": INTERPRETER_LAYER,
            "groups": [group_json(group) for group in groups],
        }
        (folder / "install.json").write_bytes(canonical_json(order) + b"\n")
        for tree in (folder, code):
            normalise_tree(tree)


def install_secrets(locked: Locked, platform: Platform) -> dict[str, str | Path]:
    """What reaches the stage by secret mounts alone, by their ids.

    Credentials of exactly the servers that the packages lie on, the certificates that pip trusts, and the key that
    vouches for the builder's cache.
    """
    packages = [package for package in locked.lockfile.for_platform(platform) if not package.is_captured]
    places = [url for url in (*locked.indexes.urls, *locked.indexes.find_links) if not is_local(url)]
    texts = [*places, *(package.url for package in packages)]
    names = {name for text in texts for name in own_variables(text)}
    known = {**locked.environ, **locked.indexes.environment}
    value = {
        "urls": places,
        "environment": {name: known[name] for name in sorted(names) if name in known},
        "netrc": _netrc(packages),
        "cache_key": derive_key("the cache of a builder"),
    }
    secrets: dict[str, str | Path] = {INDEXES_SECRET: json.dumps(value)}
    certificates = Path(known.get("REQUESTS_CA_BUNDLE") or "")
    if certificates.is_file():
        secrets[CERTIFICATES_SECRET] = certificates
    return secrets


def place_install_base(template: Template, platform: Platform) -> tuple[Template, dict[str, str]]:
    """The template with what is to stand after FROM, and the build context that this names where it lies here.

    ``install_base`` is a reference for the builder to pull, or an OCI layout, as ``--base`` takes them.
    Raises BaseImageError.
    """
    choice = parse_base(template.install_base or DEFAULT_INSTALL_BASE)
    if choice.path is not None:
        found = resolve_layout(choice.path, platform)
        place = f"oci-layout://{found.path}@{found.digest}"
        return replace(template, install_base=_INSTALL_CONTEXT), {_INSTALL_CONTEXT: place}
    if choice.reference is None:
        raise BaseImageError(
            f"{choice.text} has no Python to install with",
            hint="name an image in a registry in full, such as docker.io/library/python:3.13-slim",
        )
    return replace(template, install_base=str(choice.reference)), {}


def _netrc(packages: Iterable[LockedPackage]) -> str:
    lines = []
    for host in sorted({urlsplit(package.url).hostname or "" for package in packages} - {""}):
        found = get_netrc_auth(f"https://{host}/")
        if found is not None:
            lines.append(f"machine {host} login {found[0]} password {found[1]}\n")
    return "".join(lines)


def _copy_tools(target: Path) -> None:
    own = Path(kbuild.__file__).parent
    # Of data the table of conda's names alone: which of its packages make way for a wheel.
    paths = [*own.rglob("*.py"), own / "managers/conda_names.json"]
    files = {f"kbuild/{path.relative_to(own).as_posix()}": path for path in paths}
    for name in _TOOLS:
        for file in distribution(name).files or ():
            path = Path(str(file.locate()))
            if path.suffix != ".pyc" and ".." not in file.parts and path.is_file():
                files[file.as_posix()] = path
    for name, path in files.items():
        make_directory((target / name).parent)
        shutil.copy(path, target / name)
