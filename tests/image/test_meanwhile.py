from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import BaseImageError, BuildFailed
from kbuild.image.packages.meanwhile import interpreter_meanwhile
from kbuild.platform import Platform


class Environment:
    """What is asked of the real one."""

    def __init__(self, *missing: LockedPackage, error: Exception | None = None) -> None:
        self.packages, self.error, self.asked = list(missing), error, list[Any]()
        self.begun = threading.Event()

    def missing(self, names: Sequence[str], groups: Sequence[Any]) -> list[LockedPackage]:
        self.begun.set()
        assert not names and not groups
        return self.packages

    def interpreter(self, downloads: Mapping[LockedPackage, Path]) -> None:
        self.asked.append(dict(downloads))
        if self.error is not None:
            raise self.error


def beside(environment: Any, downloads: Path, *, slow: bool = True, error: Exception | None = None) -> list[Any]:
    names: list[Any] = []

    def leading(keys: list[str]) -> nullcontext[None]:
        names.extend(keys)
        return nullcontext()

    with interpreter_meanwhile(environment, downloads, leading):
        assert not slow or environment.begun.wait(5)
        if error is not None:
            raise error
    return names


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.image.packages.meanwhile._A_WHILE", 0.02)


@pytest.fixture
def package(tmp_path: Path) -> LockedPackage:
    sha256 = hashlib.sha256(b"x").hexdigest()
    url = "https://channel.example/linux-64/python-3.11.7-0.conda"
    linux = Platform("linux", "amd64")
    found = LockedPackage(name="python", version="3.11.7", manager="conda", platform=linux, url=url, sha256=sha256)
    (tmp_path / sha256).mkdir()
    (tmp_path / sha256 / found.filename).write_bytes(b"x")
    return found


def test_it_is_laid_out_while_something_else_takes_long(package: LockedPackage, tmp_path: Path) -> None:
    environment = Environment(package)
    assert beside(environment, tmp_path) == [f"interpreter {package.sha256}"]
    assert environment.asked == [{package: tmp_path / package.sha256 / package.filename}]


def test_what_takes_no_time_needs_nothing_beside_it(package: LockedPackage, tmp_path: Path) -> None:
    environment = Environment(package)
    assert beside(environment, tmp_path, slow=False) == environment.asked == []


def test_one_that_is_there_or_would_have_to_be_fetched_is_left_alone(package: LockedPackage, tmp_path: Path) -> None:
    for environment in (Environment(), Environment(package)):
        assert beside(environment, tmp_path / "elsewhere") == environment.asked == []


def test_what_goes_wrong_is_told_where_it_is_wanted(package: LockedPackage, tmp_path: Path) -> None:
    beside(Environment(package, error=BuildFailed("later")), tmp_path)
    with pytest.raises(ZeroDivisionError):
        beside(Environment(package, error=ZeroDivisionError()), tmp_path)
    with pytest.raises(BaseImageError, match="first"):
        beside(Environment(package, error=ZeroDivisionError()), tmp_path, error=BaseImageError("first"))
