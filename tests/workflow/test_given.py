"""Paths and texts, as notebooks have them, mean the same to every function of the API."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kbuild
from kbuild import api
from kbuild.api.deploying import deploy
from kbuild.errors import KbuildError

# What each is given beside its model or image.
MORE: dict[str, tuple[Any, ...]] = {"deploy": ("out",), "score": ("in.csv", "out.csv")}
NAMES = ["audit", "build_image", "deploy", "diff", "inspect", "lock", "measure", "pack", "rebuild", "run", "score"]
NAMES = [*NAMES, "verify", "render"]
FIRST = {"audit": "reference", "inspect": "reference", "diff": "before", "deploy": "subject"}
FIRST |= dict.fromkeys(("measure", "rebuild", "run", "verify"), "image")


def enter(name: str, *args: Any) -> None:
    function: Callable[..., Any] = deploy if name == "deploy" else getattr(api, name)
    more = {"output": "context"} if name == "render" else {}
    found = function(*args, *MORE.get(name, ()), **more)
    if name == "run":
        with found:
            pass


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_what_its_text_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "in.csv").write_text("a\n1\n")
    (tmp_path / "folder").mkdir()
    told = []
    for folder in (str(tmp_path / "folder"), tmp_path / "folder"):
        with pytest.raises(KbuildError) as caught:
            enter(name, folder)
        told.append((type(caught.value), caught.value.message))
    assert told[0] == told[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [3, ["models:/m/1"], b"models:/m/1"])
def test_what_is_neither_is_named(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name}: {FIRST.get(name, 'model')} is a text or a path, not "):
        enter(name, value)


def test_places_to_write_to_are_texts_or_paths() -> None:
    pack: Callable[..., Any] = kbuild.pack
    with pytest.raises(KbuildError, match=r"model\.zip"):
        pack("models:/m/1", "model.zip")
    with pytest.raises(TypeError, match=r"^pack: output is a text or a path, not 3"):
        pack("models:/m/1", 3)
