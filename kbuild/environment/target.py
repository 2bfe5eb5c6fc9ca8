"""What packages are chosen for: the base that an image stands on, and the C library that it has.

The bases that kbuild assembles itself are data, ``dockerfiles/bases.toml``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache

from packaging.version import Version

from kbuild.errors import ConfigurationError
from kbuild.resources import data_path

# Debian 12's.
DEFAULT_GLIBC = "2.36"
# From the oldest that manylinux2014 stands for to one that is still far away.
_GLIBCS = tuple(f"2.{number}" for number in range(17, 61))


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """``base`` is its name, ``chosen`` whether somebody asked for it: then nothing may want a newer C library."""

    base: str = "of the image"
    glibc: str = DEFAULT_GLIBC
    chosen: bool = False

    def accepted(self) -> tuple[str, ...]:
        """The C libraries that a lock may have been made for and be fresh, this one's first.

        What runs on an older one runs on a newer one. Of a base that nobody chose it is not known here which it will
        be: the one that a model was first built on is taken again.
        """
        older = [each for each in _GLIBCS if Version(each) < Version(self.glibc)]
        newer = [each for each in _GLIBCS if Version(each) > Version(self.glibc)]
        return self.glibc, *older, *([] if self.chosen else newer)

    def remedy(self, glibc: str) -> str:
        """Which bases have a C library that is wanted, as a hint."""
        having = [f"{name} (glibc {has})" for name, has in known_bases() if Version(has) >= Version(glibc)]
        if not having:
            return f"choose a base with glibc {glibc} or newer (--base)"
        return f"choose a base that has it (--base): {', '.join(having)}"


@cache
def known_bases() -> tuple[tuple[str, str], ...]:
    """Name and C library of each base of ``bases.toml``, in its order; raises ConfigurationError."""
    path = data_path("dockerfiles") / "bases.toml"
    try:
        return tuple(
            (f"{distribution}:{name}", str(suite["glibc"]))
            for distribution, table in tomllib.loads(path.read_text("utf-8")).items()
            for name, suite in table["suites"].items()
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
