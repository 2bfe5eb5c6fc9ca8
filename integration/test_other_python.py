"""kbuild on another Python than the one that trained: the image has training's, and is the same to the byte."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from engines import require
from tool import BIN, Tool, Trained, cold

_ROOT = Path(__file__).parents[1]
_RUNNING = ".".join(map(str, sys.version_info[:2]))


def _others() -> list[Path]:
    """Pythons that kbuild supports, other than the one that runs, as pyenv has them."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    wanted = [f"3.{minor}" for minor in (11, 12, 13) if f"3.{minor}" != _RUNNING]
    found = [program for short in wanted for program in sorted(versions.glob(f"{short}.*/bin/python{short}"))]
    # As of the cheap tests: those between the oldest and the newest add minutes to CI and rarely news.
    return found[-1:] if os.environ.get("CI") else found


@pytest.mark.parametrize("python", _others() or [None], ids=lambda path: path.name if path else "none")
def test_the_same_image_built_by_another_python(
    tool: Tool, trained: Trained, tmp_path: Path, python: Path | None
) -> None:
    if python is None:
        pytest.skip(f"only Python {_RUNNING} is installed here")
    here = tool("image", trained.model, "--tag", "here:1", "--json", cwd=trained.folder).json
    venv = tmp_path / "venv"
    assert tool.run([python, "-m", "venv", venv]).code == 0
    installed = tool.run([venv / "bin" / "pip", "install", "--quiet", f"{_ROOT}[build]"])
    require(installed.code == 0, f"kbuild does not install on {python.name}: {installed.err.strip()[-400:]}")
    # A cache of its own: the interpreter is captured, the wheels are installed and compiled anew.
    elsewhere = cold(tool, tmp_path / "cache", keep=("downloads", "debs"))
    argv: list[str | Path] = ["image", trained.model, "--tag", "there:1", "--json"]
    done = elsewhere.run([venv / "bin" / "kbuild", *argv], cwd=trained.folder)
    assert done.code == 0, done.err
    assert done.json["digest"] == here["digest"]
    [package] = (elsewhere.cache / "channel").glob("*/python-*.conda")
    assert package.name.startswith(f"python-{'.'.join(map(str, sys.version_info[:3]))}-")
    verified = elsewhere.run([venv / "bin" / "kbuild", "verify", "there:1", "--json"], cwd=trained.folder)
    assert verified.code == 0, verified.err
    assert verified.json["compared"]


def test_a_python_that_is_nowhere_is_one_clear_error(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert tool.run(["cp", "-r", trained.model, model]).code == 0
    for name in ("conda.yaml", "python_env.yaml", "MLmodel"):
        file = model / name
        running = ".".join(map(str, sys.version_info[:3]))
        file.write_text(file.read_text(encoding="utf-8").replace(running, f"{_RUNNING}.99"), encoding="utf-8")
    done = tool.run([BIN / "kbuild", "image", model, "--interpreter", "captured", "--tag", "none:1"], cwd=tmp_path)
    assert done.code != 0
    assert f"the model was trained with Python {_RUNNING}.99, which is not on this machine" in done.err
    assert f"uv python install {_RUNNING}.99" in done.err
    assert len(done.error_lines) == 2
