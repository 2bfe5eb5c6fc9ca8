"""What the environment of a command asks for, before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbuild.api.session import open_session


@pytest.mark.parametrize(("stated", "trusted"), [("1", True), ("0", False), ("no", False), ("", False), (None, False)])
def test_models_are_trusted_where_that_is_said_outright(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: str | None, trusted: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KBUILD_TRUST_MODEL", raising=False)
    if stated is not None:
        monkeypatch.setenv("KBUILD_TRUST_MODEL", stated)
    assert open_session().tools.trust_model is trusted
