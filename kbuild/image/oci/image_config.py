"""The image config (OCI image-spec config.md), in one canonical form whatever engine it came from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from kbuild.digest import Digest
from kbuild.platform import Platform

# The keys of "config" that mean something at run time, in the order of Docker's own writer. Left out: what a builder
# adds for its own use, such as ArgsEscaped (Windows) or OnBuild (already executed).
_KEYS = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
)
# The PATH of an image built FROM scratch, as BuildKit sets it (util/system/path.go, DefaultPathEnvUnix).
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def normalise(config: dict[str, Any]) -> dict[str, Any]:
    """The run-time keys only, without empty values, objects sorted by key, lists as they are."""
    kept = {key: config[key] for key in _KEYS if config.get(key)}
    if kept.get("WorkingDir") == "/":
        del kept["WorkingDir"]
    return {key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in kept.items()}


def make_config(
    config: dict[str, Any],
    *,
    platform: Platform,
    created: int,
    diff_ids: Sequence[Digest],
    created_by: Sequence[str],
) -> dict[str, Any]:
    """The whole image config. ``created`` is in seconds since 1970; one history entry a layer, from the lowest up."""
    when = timestamp(created)
    return {
        "architecture": platform.architecture,
        "config": normalise(config),
        "created": when,
        "history": [{"created": when, "created_by": text} for text in created_by],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]},
    }


def timestamp(seconds: int) -> str:
    """RFC 3339 in UTC, as config.md asks of "created"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
