"""The name that programs of kbuild 0.1 import ``record_model`` by; it is in :mod:`kbuild.recording.record`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Looked up when asked for: training knows nothing of recording.
    from importlib import import_module

    return getattr(import_module("kbuild.recording.record"), name)
