"""A plan that says nothing: what ``pack`` needs besides the layers."""

from __future__ import annotations

from kbuild.digest import digest_bytes
from kbuild.plan.build_plan import BuildPlan, ImageConfig
from kbuild.platform import Platform

EMPTY = BuildPlan(
    base=digest_bytes(b""),
    base_name="scratch",
    from_line="scratch",
    platform=Platform("linux", "amd64"),
    created=0,
    layers=(),
    config=ImageConfig(
        user="", entrypoint=(), env=(), exposed_port=1, healthcheck=(), stop_signal="SIGTERM", labels=()
    ),
    annotations=(),
    dockerfile="",
)
