"""The Debian and Ubuntu suites that a base can be assembled from, as data in ``dockerfiles/bases.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kbuild.errors import ConfigurationError
from kbuild.resources import data_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One release of a distribution: what a base needs of it, and which keys sign it.

    ``separate_security`` tells whether security updates come from an archive of their own; ``glibc`` is its C library.
    """

    distribution: str
    name: str
    version: str
    glibc: str
    packages: tuple[str, ...]
    components: tuple[str, ...]
    keyring: Path
    separate_security: bool

    def __str__(self) -> str:
        return f"{self.distribution}:{self.name}"


@cache
def known_suites() -> tuple[Suite, ...]:
    """Every suite of ``bases.toml`` in its order; raises ConfigurationError when the file is damaged."""
    path = data_path("dockerfiles") / "bases.toml"
    try:
        return tuple(
            Suite(
                distribution=distribution,
                name=name,
                version=suite["version"],
                glibc=suite["glibc"],
                packages=tuple(suite["packages"]),
                components=tuple(table["components"]),
                keyring=Path(table["keyring"]),
                separate_security=table["separate_security"],
            )
            for distribution, table in tomllib.loads(path.read_text("utf-8")).items()
            for name, suite in table["suites"].items()
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def find_suite(distribution: str, name: str) -> Suite | None:
    """The suite by its code name, None if no base is assembled from it."""
    return next((s for s in known_suites() if (s.distribution, s.name) == (distribution, name)), None)
