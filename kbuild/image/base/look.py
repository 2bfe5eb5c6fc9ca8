"""What a base image has to run a Python with, looked up in its layers once for each digest: a name promises nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import digest_json
from kbuild.errors import BaseImageError
from kbuild.files import mark_used
from kbuild.plan.base import BaseFacts, ResolvedBase
from kbuild.platform import Platform

_RECIPE = 1  # raised when the same layers would be judged differently
_HINT = "choose a base with glibc, such as debian:bookworm, or leave out --base"


def check_libc(base: ResolvedBase, facts: BaseFacts) -> ResolvedBase:
    """The base with the C library that it was seen to have; raises BaseImageError where no Python runs on it."""
    if facts.fault is not None:
        raise BaseImageError(f"base image {base.name} cannot run the image's Python: {facts.fault}", hint=_HINT)
    return replace(base, glibc=facts.glibc)


def look_into(base: ResolvedBase, platform: Platform, *, cache: Path) -> BaseFacts:
    """What is in the base, found once for each digest; raises BaseImageError where a layer cannot be read.

    What is assembled from a suite's packages is known: glibc, and a shell only where its files have one.
    """
    if base.kind == "debs":
        return BaseFacts(glibc=base.glibc, shell=base.path is not None and (base.path / "bin/sh").exists())
    kept = cache / "base-facts" / f"{digest_json([_RECIPE, str(base.digest), str(platform)]).hex}.json"
    known = _read(kept)
    if known is not None:
        return known
    from kbuild.image.base.libc import read_facts  # brings what reads ELF files

    facts = read_facts(base, platform)
    write_vouched(kept, json.dumps(asdict(facts)).encode())
    return facts


def _read(kept: Path) -> BaseFacts | None:
    try:
        facts = BaseFacts(**json.loads(read_vouched(kept)))
        mark_used(kept)
    except (FileNotFoundError, ValueError, TypeError):
        return None  # not looked into yet, or a damaged note: looked into again
    return facts
