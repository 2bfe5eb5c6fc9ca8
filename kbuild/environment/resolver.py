"""Resolver: what turns an environment spec into a lockfile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kbuild.digest import Digest
from kbuild.environment.lockfile import Lockfile
from kbuild.environment.spec import EnvironmentSpec
from kbuild.progress import Progress


class Resolver(Protocol):
    """Resolves every package of a spec to a url and a sha256."""

    def input_digest(self, spec: EnvironmentSpec) -> Digest:
        """Digest of everything that decides the answer: the spec and the resolver's own version.

        A lockfile that records another one is stale.
        """

    def input_digests(self, spec: EnvironmentSpec, glibcs: Sequence[str]) -> list[Digest]:
        """What it is for each of these C libraries, whatever base the resolver is for."""

    def resolve(self, spec: EnvironmentSpec, *, progress: Progress) -> Lockfile:
        """Solve; raises PackageNotFound, VersionConflict, SourceOnlyPackage, IndexUnavailable or ResolverFailed."""
