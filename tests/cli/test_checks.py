"""The doctor's checks, on a machine that is told of."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from kbuild.doctor import checks

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("free", "status"), [(1 * GB, "fail"), (3 * GB - 1, "fail"), (3 * GB, "warn"), (8 * GB - 1, "warn"), (8 * GB, "ok")]
)
def test_little_disk_is_told_before_it_is_too_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    (check,) = checks._disk(SimpleNamespace(cache=tmp_path / "cache"))  # type: ignore[arg-type]
    assert (check.name, check.status) == ("disk", status)
    assert f"{free / GB:.1f} GB free" in check.detail
