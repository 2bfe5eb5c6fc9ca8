"""Resolving a base: from what ``--base`` says to exact bytes on this machine."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from kbuild.errors import BaseImageError, BaseNotPinned, InvalidImage, RegistryError
from kbuild.image.base.choice import Assembling, BaseChoice, base_name
from kbuild.image.base.debian.debs import Mirrors, resolve_debs_base
from kbuild.image.base.debian.suites import known_suites
from kbuild.image.oci import layout as layouts
from kbuild.plan.base import ResolvedBase
from kbuild.platform import Platform
from kbuild.process import Runner
from kbuild.progress import Progress


def resolve_base(
    choice: BaseChoice,
    platform: Platform,
    *,
    recorded: ResolvedBase | None = None,
    locked: bool = False,
    assembling: Assembling = Assembling(),  # noqa: B008  frozen
    cache: Path,
    run: Runner,
    progress: Progress,
) -> ResolvedBase:
    """The base that ``choice`` names, with its files below ``cache`` (a local layout stays where it is).

    ``recorded`` is what an earlier build of the same model used; where it is of the same name it is taken again,
    package by package or by digest; with ``locked`` a tag that has no record is not looked up.
    Raises BaseImageError, BaseNotPinned, RegistryError or HashMismatch.
    """
    if recorded is not None and base_name(recorded.name) != choice.name:
        recorded = None
    match choice:
        case BaseChoice(suite=suite) if suite is not None:
            mirrors = Mirrors(
                cache=cache,
                run=run,
                progress=progress,
                mirror=assembling.mirror(suite),
                allow_unsigned=assembling.allow_unsigned,
            )
            return resolve_debs_base(suite, platform, mirrors, recorded=recorded)
        case BaseChoice(path=path) if path is not None:
            return resolve_layout(path, platform)
        case BaseChoice(reference=reference) if reference is not None:
            from kbuild.image.registry.transfer import pull_image  # Docker's SDK, for its credentials

            if recorded is not None:
                reference = reference.with_digest(recorded.digest)
            if locked and reference.digest is None:
                raise BaseNotPinned(
                    f"--locked: no digest is recorded for base image {choice.text}, and what a tag means changes",
                    hint=f"name it as {reference.name}@sha256:…, or build once without --locked, which records it",
                )
            try:
                pulled, layout = pull_image(reference, platform, cache=cache / "pulled", progress=progress)
            except RegistryError as error:
                meant = get_close_matches(choice.text, map(str, known_suites()), n=1)
                hint = f"did you mean {meant[0]}?" if meant else error.hint
                raise RegistryError(error.message, hint=hint) from error
            if pulled.digest is not None:
                return ResolvedBase(
                    kind="registry", name=choice.name, digest=pulled.digest, reference=str(pulled), path=layout
                )
    raise BaseImageError(f"{choice.text!r} names no base")


def resolve_layout(path: Path, platform: Platform) -> ResolvedBase:
    """The image for ``platform`` in an OCI layout; raises BaseImageError."""
    try:
        image = layouts.find_manifest(path, platform=platform)
        found = layouts.read_platform(path, layouts.read_manifest(path, image.digest))
    except InvalidImage as error:
        raise BaseImageError(f"{path} is not a base image: {error.message}", hint=error.hint) from error
    if found != str(platform):
        raise BaseImageError(f"{path} is for {found}, not for {platform}")
    return ResolvedBase(kind="layout", name=f"oci:{path.name}", digest=image.digest, path=path.absolute())
