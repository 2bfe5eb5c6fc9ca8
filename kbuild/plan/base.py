"""The base image as the plan knows it: already resolved to exact bytes by the image floor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kbuild.digest import Digest

BaseKind = Literal["registry", "layout", "debs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BasePackage:
    """A Debian package unpacked into a base."""

    name: str
    version: str
    architecture: str
    sha256: str
    filename: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedBase:
    """What stands in the ``FROM`` line.

    registry: ``reference`` is ``name@sha256:…``; layout: ``path`` is the OCI layout and ``digest`` its manifest;
    debs: ``path`` is a directory to be copied to ``/`` of an empty image and ``digest`` that of ``packages`` and
    of the recipe that unpacks them. ``glibc`` is the C library's version where known, ``2.36``. ``unsigned`` tells that
    its packages were picked from lists that nobody's signature stands for.
    """

    kind: BaseKind
    name: str
    digest: Digest
    reference: str | None = None
    path: Path | None = None
    packages: tuple[BasePackage, ...] = ()
    glibc: str | None = None
    unsigned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFacts:
    """What was seen in a base: ``glibc`` is the version of the C library, ``shell`` whether there is a /bin/sh.

    ``fault`` says why no Python of ours runs there, None where one does.
    """

    glibc: str | None
    shell: bool
    fault: str | None = None
