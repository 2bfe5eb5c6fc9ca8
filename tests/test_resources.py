from __future__ import annotations

from pathlib import Path

import pytest

from kbuild import resources
from kbuild.errors import ConfigurationError


def test_the_checkout_serves_its_own_files() -> None:
    assert (resources.data_path("dockerfiles") / "bases.toml").is_file()


def test_a_wheel_serves_the_files_packed_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "kbuild")
    (tmp_path / "kbuild/_data/demo").mkdir(parents=True)
    assert resources.data_path("demo") == tmp_path / "kbuild/_data/demo"
    with pytest.raises(ConfigurationError, match="has no dockerfiles"):
        resources.data_path("dockerfiles")
