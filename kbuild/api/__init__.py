"""F8: what the command line and programs ask for alike; prints nothing and ends nobody's process.

The names below are what ``import kbuild`` offers, and are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbuild.api.auditing import AuditOptions, audit
    from kbuild.api.building import build_image, build_images, lock, render
    from kbuild.api.comparing import diff
    from kbuild.api.inspecting import inspect
    from kbuild.api.measuring import MeasureOptions, measure
    from kbuild.api.packing import ScoreOptions, pack, score
    from kbuild.api.rebuilding import RebuildOptions, rebuild
    from kbuild.api.request import BuildOptions, ImageOptions, LockOptions
    from kbuild.api.running import RunOptions, run
    from kbuild.api.session import open_session
    from kbuild.api.spark import spark_udf
    from kbuild.api.verifying import VerifyOptions, verify

__all__ = [
    "AuditOptions",
    "BuildOptions",
    "ImageOptions",
    "LockOptions",
    "MeasureOptions",
    "RebuildOptions",
    "RunOptions",
    "ScoreOptions",
    "VerifyOptions",
    "audit",
    "build_image",
    "build_images",
    "diff",
    "inspect",
    "lock",
    "measure",
    "open_session",
    "pack",
    "rebuild",
    "render",
    "run",
    "score",
    "spark_udf",
    "verify",
]

_HOMES = {
    "AuditOptions": "kbuild.api.auditing",
    "BuildOptions": "kbuild.api.request",
    "ImageOptions": "kbuild.api.request",
    "LockOptions": "kbuild.api.request",
    "MeasureOptions": "kbuild.api.measuring",
    "RebuildOptions": "kbuild.api.rebuilding",
    "RunOptions": "kbuild.api.running",
    "ScoreOptions": "kbuild.api.packing",
    "VerifyOptions": "kbuild.api.verifying",
    "build_image": "kbuild.api.building",
    "build_images": "kbuild.api.building",
    "diff": "kbuild.api.comparing",
    "inspect": "kbuild.api.inspecting",
    "lock": "kbuild.api.building",
    "measure": "kbuild.api.measuring",
    "open_session": "kbuild.api.session",
    "pack": "kbuild.api.packing",
    "rebuild": "kbuild.api.rebuilding",
    "render": "kbuild.api.building",
    "run": "kbuild.api.running",
    "score": "kbuild.api.packing",
    "spark_udf": "kbuild.api.spark",
}
# Packages that are called as functions.
_CALLED = {"audit": "kbuild.audit", "verify": "kbuild.verify"}


def __getattr__(name: str) -> Any:
    if name in _CALLED:
        return import_module(_CALLED[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
