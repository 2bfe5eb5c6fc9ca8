"""What the work is done with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from kbuild.cache.folder import using_cache
from kbuild.cache.limit import DEFAULT_LIMIT
from kbuild.digest import Digest
from kbuild.environment.index.package_indexes import Indexes, package_indexes
from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.locking.lock_model import Locked, lock_bundle
from kbuild.environment.locking.wanted import LockRequest
from kbuild.image.deliver.sharing import LayerSharing
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import ModelStore
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform
from kbuild.process import Runner
from kbuild.progress import Progress
from kbuild.verify.before_loading import Guard
from kbuild.workflow.once import Shared


class Phases(Protocol):
    """Opens a named phase of the work and shows what happens inside."""

    def __call__(self, phase: str) -> AbstractContextManager[Progress]:
        """fetch, lock, base, cache, stage, build, publish."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What the work is done with; ``cache`` is a folder that may be removed at any time between two commands.

    With ``verify_cache`` what is taken from it is read whole, though nobody touched it since; with ``trust_model``
    models are loaded here whatever their pickles do. Several builds of one process have one ``shared``.
    """

    store: ModelStore
    run: Runner
    cache: Path
    phases: Phases
    cache_limit: int = DEFAULT_LIMIT
    verify_cache: bool = False
    trust_model: bool = False
    shared: Shared = field(default_factory=Shared)

    def using_cache(self) -> AbstractContextManager[None]:
        """Within it nobody removes what is used of the cache, and the cache stays within its limit; see ``using_cache``
        of ``kbuild.cache.folder`` for what it raises."""
        return using_cache(self.cache, limit=self.cache_limit)

    def ask_pip(self, environ: Mapping[str, str] = os.environ) -> Indexes:
        """As ``package_indexes``. Builds of one process ask once in ten minutes: each time is a start of Python, which
        takes as long as a small model's image."""
        key = ("pip", frozenset(environ.items()))
        return self.shared.kept(key, partial(package_indexes, run=self.run, environ=environ, kept=True))

    def lock(self, bundle: ModelBundle, request: LockRequest, progress: Progress, *, force: bool) -> Locked:
        """As ``lock_bundle``, with these."""
        return lock_bundle(
            bundle,
            request,
            store=self.store,
            cache=self.cache,
            run=self.run,
            progress=progress,
            force=force,
            ask_pip=self.ask_pip,
        )

    @property
    def guard(self) -> Guard:
        """What may be loaded here, and where that is remembered."""
        return Guard(cache=self.cache, trusted=self.trust_model)

    def sharing(self, place: ImageReference, to: Literal["take", "give"]) -> LayerSharing:
        """An end of the layer cache that builders share there, one for the builds of this process."""
        return self.shared.kept(f"{to} layers {place}", lambda: LayerSharing(place, self.cache))


def bring_split(place: ImageReference | None, wheels: tuple[LockedPackage, ...], tools: Tools) -> None:
    """Which wheels share a layer, where builders share that: so nobody needs their files to know it."""
    if place is not None:
        with tools.phases("cache") as progress:
            tools.sharing(place, "take").bring_split(wheels, progress)


class Gates(Protocol):
    """Where somebody else has a word while an image is built; each may raise, which ends the build there."""

    def planned(self, plan: Digest) -> None:
        """What the image will be is known, and nothing was built; ``plan`` is that of all platforms together."""

    def built(self, reference: ModelReference, images: Mapping[Platform, BuiltImage]) -> None:
        """They are built and verified, and nobody else was given them."""


class Open:
    """Nobody has a word."""

    def planned(self, plan: Digest) -> None:
        """Let it through."""

    def built(self, reference: ModelReference, images: Mapping[Platform, BuiltImage]) -> None:
        """Let them through."""
