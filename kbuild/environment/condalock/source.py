"""The files that conda-lock is given for one platform, as texts.

Formats: conda-lock's docs, "Source files" and "Virtual packages"; its lockfile models for the seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from kbuild.digest import Digest
from kbuild.environment.condalock.ahead import PACKAGES, PLACES
from kbuild.environment.index.file_choice import BinaryChoice
from kbuild.environment.links import is_local
from kbuild.environment.lockfile import INPUT_DIGEST_KEY
from kbuild.environment.requirements import exact_version, plain_specifier
from kbuild.environment.virtual import virtual_packages
from kbuild.managers.conda_names import Names, all_names
from kbuild.platform import Platform

ENVIRONMENT = "environment.yml"
PYPROJECT = "pyproject.toml"
LOCKFILE = "conda-lock.yml"
VIRTUAL_PACKAGES = "virtual-packages.yml"
NAMES = "conda-names.json"
METADATA = "metadata.yml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all questions for one platform have in common.

    ``python_pin`` is a MatchSpec of python that says more than its version. With ``names`` conda-lock asks no third
    address which distribution a conda package brings. ``downloads`` is where kbuild keeps packages: what it has is not
    asked for once more. ``hashes`` are of the files that may be taken, by package; ``binary`` is what pip's
    configuration and the model say of source distributions and pre-releases. ``built`` are those of ``find_links`` that
    are wheels built here.
    """

    python: str
    python_pin: str = ""
    platform: Platform
    channels: Sequence[str]
    indexes: Sequence[str]
    find_links: Sequence[str] = ()
    glibc: str
    input_digest: Digest
    names: Names = ()
    downloads: Path | None = None
    hashes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    binary: BinaryChoice = BinaryChoice()  # noqa: RUF009  frozen
    built: Sequence[str] = ()


def make_source(
    setting: Setting,
    *,
    conda: Sequence[str],
    pip: Mapping[str, Requirement],
    pins: Mapping[str, Requirement],
) -> dict[str, str]:
    """File names and texts of one question.

    Two sources, because conda-lock adds conda's ``pip`` to an environment.yml with a ``pip:`` list, and nothing is
    installed when the container starts. ``pins`` are the constraints: they become a *seed lockfile*, an older lock
    that conda-lock updates. Its solver takes a locked version wherever one fits and a package is needed anyway, so a
    constraint binds the version and asks for nothing, on this platform or any other.
    """
    subdir = setting.platform.conda_subdir
    files = {
        ENVIRONMENT: _yaml(
            {
                "channels": list(setting.channels),
                "platforms": [subdir],
                "category": "main",
                "dependencies": [setting.python_pin or f"python =={setting.python}", *conda],
            }
        ),
        LOCKFILE: _seed(subdir, pins, setting.channels),
        VIRTUAL_PACKAGES: _yaml({"subdirs": {subdir: {"packages": virtual_packages(setting.platform, setting.glibc)}}}),
        NAMES: json.dumps(
            {
                conda: {"conda_name": conda, "pypi_name": name}
                for conda, name in sorted(all_names(setting.names).items())
            }
        ),
        METADATA: _yaml({INPUT_DIGEST_KEY: str(setting.input_digest)}),
        PLACES: json.dumps(
            {
                "indexes": list(setting.indexes),
                "find_links": list(setting.find_links),
                "python": setting.python,
                "platform": str(setting.platform),
                "glibc": setting.glibc,
                **({"hashes": setting.hashes} if setting.hashes else {}),
                **({"binary": asdict(setting.binary)} if setting.binary != BinaryChoice() else {}),
                **({"built": list(setting.built)} if setting.built and setting.binary.but else {}),
                "downloads": None if setting.downloads is None else str(setting.downloads.absolute()),
            }
        ),
    }
    wanted = {**pip, **pins} if pip else {}
    files[PACKAGES] = json.dumps({name: _version_of(requirement) for name, requirement in sorted(wanted.items())})
    if pip:
        files[PYPROJECT] = _pyproject(subdir, pip, setting.indexes)
    return files


def _pyproject(subdir: str, pip: Mapping[str, Requirement], indexes: Sequence[str]) -> str:
    # A JSON text of ASCII characters is a TOML value too.
    requirements = [_requirement(requirement) for _, requirement in sorted(pip.items())]
    return "\n".join(
        [
            "[project]",
            'name = "model"',
            'version = "0"',
            f"dependencies = {json.dumps(requirements)}",
            "[tool.conda-lock]",
            f"platforms = {json.dumps([subdir])}",
            'default-non-conda-source = "pip"',
            f"pip-repositories = {json.dumps([url for url in indexes if not is_local(url)])}",
            "allow-pypi-requests = false",
            "",
        ]
    )


def _version_of(requirement: Requirement) -> str | None:
    version = exact_version(requirement.specifier)
    return None if version is None else str(version)


def _requirement(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{plain_specifier(requirement.specifier)}"


def _seed(subdir: str, pins: Mapping[str, Requirement], channels: Sequence[str]) -> str:
    versions = {name: exact_version(requirement.specifier) for name, requirement in sorted(pins.items())}
    packages = [
        {
            "name": name,
            "version": str(version),
            "manager": "pip",
            "platform": subdir,
            "dependencies": {},
            "url": "seed",
            "hash": {},
            "category": "main",
            "optional": False,
        }
        for name, version in versions.items()
        if version is not None
    ]
    metadata = {"content_hash": {}, "channels": list(channels), "platforms": [subdir], "sources": []}
    # JSON is YAML too, and written in no time.
    return json.dumps({"version": 1, "metadata": metadata, "package": packages})


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False))
