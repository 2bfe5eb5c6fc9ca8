"""Small locks, models and subjects."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from kbuild.audit.lockview import LockView, view_lock
from kbuild.environment.lock_digests import CONTENT_DIGEST_KEY, content_digest
from kbuild.model.bundle import ModelBundle, read_bundle

SUBDIR = "linux-64"


def entry(name: str, version: str, manager: str = "pip", **changes: Any) -> dict[str, Any]:
    """A ``package`` of a lockfile."""
    wheel = f"https://files.example/{name}/{name}-{version}-py3-none-any.whl"
    conda = f"https://conda.example/forge/{SUBDIR}/{name}-{version}-h1_0.conda"
    return {
        "name": name,
        "version": version,
        "manager": manager,
        "platform": SUBDIR,
        "dependencies": {},
        "url": wheel if manager == "pip" else conda,
        "hash": {"sha256": f"{abs(hash((name, version))) % 16**12:012x}".rjust(64, "0")},
        "category": "main",
        "optional": False,
    } | changes


def lock_bytes(*entries: dict[str, Any], channels: tuple[str, ...] = ("https://conda.example/forge",)) -> bytes:
    """A lockfile as kbuild writes it."""
    packages = list(entries)
    metadata: dict[str, Any] = {
        "content_hash": {},
        "channels": [{"url": url, "used_env_vars": []} for url in channels],
        "platforms": [SUBDIR],
        "sources": [],
    }
    metadata["custom_metadata"] = {
        CONTENT_DIGEST_KEY: str(content_digest({**metadata, "custom_metadata": {}}, packages))
    }
    document = {"version": 1, "metadata": metadata, "package": packages}
    return yaml.safe_dump(document, sort_keys=False).encode()


MakeLock = Callable[..., LockView]


@pytest.fixture
def make_lock() -> MakeLock:
    return lambda *entries, **options: view_lock(lock_bytes(*entries, **options), source="test")


@pytest.fixture
def make_entry() -> Callable[..., dict[str, Any]]:
    return entry


@pytest.fixture
def make_lock_bytes() -> Callable[..., bytes]:
    return lock_bytes


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., ModelBundle]:
    """A pyfunc model folder with the given files besides."""

    def make(
        name: str = "model",
        *,
        files: dict[str, bytes] | None = None,
        constraints: str | None = "six==1.17.0\n",
        **changes: Any,
    ) -> ModelBundle:
        root = tmp_path / name
        root.mkdir(parents=True, exist_ok=True)
        mlmodel = {
            "artifact_path": "model",
            "flavors": {
                "python_function": {
                    "env": {"conda": "conda.yaml"},
                    "loader_module": "mlflow.pyfunc.model",
                    "python_model": "python_model.pkl",
                    "python_version": "3.11.7",
                }
            },
            "metadata": {"kbuild": {"format": 1, "python": "3.11.7"}},
            "model_id": "m-" + "0" * 32,
            "run_id": "1" * 32,
            "utc_time_created": "2026-11-22 22:26:00.5",
            "signature": {"inputs": json.dumps([{"type": "double", "name": "age", "required": True}])},
        } | changes
        conda = {
            "channels": ["forge"],
            "dependencies": ["python=3.11.7", {"pip": ["six==1.17.0", "-c constraints.txt"]}],
        }
        (root / "MLmodel").write_text(yaml.safe_dump(mlmodel))
        (root / "conda.yaml").write_text(yaml.safe_dump(conda))
        if constraints is not None:
            (root / "constraints.txt").write_text(constraints)
        for path, data in (files or {}).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return read_bundle(root)

    return make
