"""What the scoring server takes from its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import ConfigurationError

_LEVELS = ("critical", "error", "warning", "info", "debug")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """``port`` is a TCP port, 1 to 65535."""

    model: Path
    host: str
    port: int
    log_level: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the ``KBUILD_…`` variables; raises ConfigurationError naming the one that is wrong."""
        level = environment.get("KBUILD_LOG_LEVEL", "warning").lower()
        if level not in _LEVELS:
            raise ConfigurationError(f"KBUILD_LOG_LEVEL is {level!r}, not one of {', '.join(_LEVELS)}")
        return cls(
            model=Path(environment.get("KBUILD_MODEL", "/opt/model")),
            host=environment.get("KBUILD_HOST", "0.0.0.0"),  # noqa: S104  a container is reached from outside
            port=read_port(environment),
            log_level=level,
        )


def read_port(environment: Mapping[str, str] = os.environ) -> int:
    """``KBUILD_PORT``, default 8080; raises ConfigurationError for what is no port."""
    text = environment.get("KBUILD_PORT", "8080")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ConfigurationError(f"KBUILD_PORT is {text!r}, not a port from 1 to 65535")
    return int(text)
