"""conda's package specifications (its docs, "Package match specifications"), read by py-rattler.

Of what MLflow writes into every model, ``python=3.11.7`` and ``pip<=24.0`` or ``pip``, nothing is to be understood but
name and version; those are told apart here, since importing rattler takes longer than a build of what is there already.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MLFLOWS = re.compile(r"(?P<name>python|pip)(?:(?P<relation>==?|<=)(?P<version>\d+(?:\.\d+)*))?")
_ONE_RELEASE = re.compile(r"(?:==)?(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)(?:\.\*)?")


_OTHER_PYTHON = re.compile(r".*_(?:(?P<free>cp\d+t)|pypy)")


def other_python(build: str) -> str | None:
    """What a build of conda's ``python`` is that is not CPython as wheels mostly want it, None where it is that.

    conda-forge ends builds with the ABI: ``0_cpython``, ``100_cp313``, ``100_cp313t`` (PEP 703), ``0_73_pypy``.
    """
    match = _OTHER_PYTHON.fullmatch(build)
    if match is None:
        return None
    return "a PyPy" if match["free"] is None else "a free-threaded CPython"


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaSpec:
    """``name`` in lower case; ``version`` and ``build`` as conda writes them, None where any will do."""

    name: str
    version: str | None = None
    build: str | None = None

    @property
    def release(self) -> str | None:
        """The one release X.Y.Z that it asks for, None where it asks for more than one."""
        match = _ONE_RELEASE.fullmatch(self.version or "")
        return None if match is None else match["version"]

    def allows(self, version: str) -> bool:
        """Whether a version is one that it asks for."""
        if self.version is None:
            return True
        from rattler import Version, VersionSpec

        return bool(VersionSpec(self.version).matches(Version(version)))


def read_spec(text: str) -> CondaSpec:
    """A package specification; raises ValueError for what is none, and for the url of one file."""
    plain = _MLFLOWS.fullmatch(text.strip())
    if plain is not None and plain["version"] is None:
        return CondaSpec(name=plain["name"])
    if plain is not None:
        relation = {"=": "", "==": "==", "<=": "<="}[plain["relation"]]
        star = "" if relation else ".*"
        return CondaSpec(name=plain["name"], version=f"{relation}{plain['version']}{star}")
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    try:
        read = MatchSpec(text.strip(), strict=False)
    except InvalidMatchSpecError as error:
        raise ValueError(f"no conda package specification: {error}") from error
    if "[url=" in str(read):
        raise ValueError("the url of one file, which no channel need have: name the package and its version")
    if read.name is None:
        raise ValueError("no conda package specification: it names no package")
    return CondaSpec(
        name=read.name.normalized,
        version=None if read.version in (None, "*") else str(read.version),
        build=None if read.build is None else str(read.build),
    )
