"""A user of a container that is only a number: no entry in passwd, and no ``HOME``."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NoReturn

import pytest

from kbuild.scoring import __main__ as scorer


def test_who_has_no_home_has_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> NoReturn:
        raise KeyError(uid)

    monkeypatch.setenv("HOME", "/of/mine")
    monkeypatch.setattr(scorer, "serve_shared", lambda *_: 0)
    assert scorer.main(["--pipe"]) == 0 and str(Path.home()) == "/of/mine"
    monkeypatch.delenv("HOME")
    own = pwd.getpwuid(os.getuid()).pw_dir
    assert scorer.main(["--pipe"]) == 0 and str(Path.home()) == own and "HOME" not in os.environ
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert scorer.main(["--pipe"]) == 0 and str(Path.home()) == "/tmp"
