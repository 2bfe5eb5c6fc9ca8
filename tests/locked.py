"""Locked packages for tests."""

from __future__ import annotations

from typing import Any

from kbuild.environment.lockfile import LockedPackage
from kbuild.platform import Platform


def package(name: str, *needs: str, **given: Any) -> LockedPackage:
    """A wheel of any platform, version 1, that needs these packages, but for what is ``given``."""
    usual: dict[str, Any] = {
        "version": "1",
        "manager": "pip",
        "platform": Platform.parse("linux/amd64"),
        "url": f"https://index.example/{name}-1-py3-none-any.whl",
        "sha256": "0" * 64,
        "dependencies": tuple((need, "*") for need in needs),
    }
    return LockedPackage(name=name, **{**usual, **given})
