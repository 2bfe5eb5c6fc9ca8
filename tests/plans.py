"""A plan that says nothing, and layers of given bytes: what ``pack`` needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bytes:
    """The content of a layer."""

    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data
