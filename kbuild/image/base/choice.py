"""What ``--base`` says, parsed, and what it says when nobody gives it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import BaseImageError, InvalidReference
from kbuild.image.base.debian.suites import Suite, find_suite, known_suites
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import INDEX
from kbuild.plan.base import BaseKind

_HINT = "a base is a registry reference, ./an-oci-layout, or one of {suites}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseChoice:
    """A base image that was asked for: one of ``reference``, ``path`` and ``suite`` is set, as ``kind`` says."""

    kind: BaseKind
    text: str
    reference: ImageReference | None = None
    path: Path | None = None
    suite: Suite | None = None

    @property
    def name(self) -> str:
        """The one name of what was asked for, however it was written: ``docker.io/library/python:latest``."""
        if self.reference is not None:
            plain = self.reference.tag is None and self.reference.digest is None
            return str(self.reference.with_tag("latest") if plain else self.reference)
        return self.text if self.suite is None else str(self.suite)


def base_name(text: str) -> str:
    """The name of the base that this text asks for; the text itself where it asks for none."""
    try:
        return parse_base(text).name
    except BaseImageError:
        return text


def parse_base(text: str) -> BaseChoice:
    """Read a ``--base``.

    ``debian:bookworm`` (a suite of bases.toml, nothing else after it) is assembled from Debian packages; the image
    of that name in a registry is written in full, ``docker.io/library/debian:bookworm``, or with its digest. What
    starts with ``oci:``, ``.``, ``/`` or ``~`` is an OCI layout directory. The rest are registry references.
    Raises BaseImageError.
    """
    hint = _hint()
    if text.startswith(("oci:", ".", "/", "~")):
        path = text.removeprefix("oci:")
        if not path or "\0" in path:
            raise BaseImageError(f"{text!r} names no OCI layout directory", hint=hint)
        try:
            return BaseChoice(kind="layout", text=text, path=Path(path).expanduser())
        except RuntimeError as error:  # ~somebody
            raise BaseImageError(f"{text!r} names the home of a user that is not there", hint=hint) from error
    distribution, _, name = text.partition(":")
    suite = find_suite(distribution, name)
    if suite is not None:
        return BaseChoice(kind="debs", text=text, suite=suite)
    try:
        return BaseChoice(kind="registry", text=text, reference=ImageReference.parse(text))
    except InvalidReference as error:
        raise BaseImageError(f"{text!r} is not a base image: {error.message}", hint=hint) from error


def check_layout(path: Path) -> None:
    """Raises BaseImageError for a path where no OCI image layout lies; what it holds is read later."""
    if (path / INDEX).is_file():
        return
    if path.is_dir():
        why = f"the folder has no {INDEX}, so it is no OCI image layout"
    else:
        why = "it is no folder" if path.exists() else "there is no such folder"
    raise BaseImageError(f"{path} is not a base image: {why}", hint=_hint())


def _hint() -> str:
    return _HINT.format(suites=", ".join(map(str, known_suites())))


def default_base(os_release: Mapping[str, str] | None = None) -> BaseChoice:
    """The base for when nobody chose one: this machine's own suite, so that a captured interpreter finds its C library.

    ``os_release`` holds the fields of os-release(5), this machine's if not given. On any other system it is the
    newest stable Debian that kbuild knows, which has the newest C library.
    """
    facts = _this_machine() if os_release is None else os_release
    suite = find_suite(facts.get("ID", ""), facts.get("VERSION_CODENAME", "")) or known_suites()[0]
    return BaseChoice(kind="debs", text=str(suite), suite=suite)


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembling:
    """How the packages of an assembled base are found: ``debian_mirror`` is the project's, ``allow_unsigned`` takes
    lists whose signature cannot be checked."""

    debian_mirror: str | None = None
    allow_unsigned: bool = False

    def mirror(self, suite: Suite, environ: Mapping[str, str] = os.environ) -> str:
        """What the user set: ``KBUILD_DEBIAN_MIRROR``, else the project's, else ''; for Ubuntu's suites
        ``KBUILD_UBUNTU_MIRROR``."""
        projects = self.debian_mirror if suite.distribution == "debian" else None
        return environ.get(f"KBUILD_{suite.distribution.upper()}_MIRROR") or projects or ""


def _this_machine() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
