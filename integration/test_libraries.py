"""The libraries that people train with: each trained in an environment of its own, locked, built and verified.

What was found is shown at the end as rows of the table in kbuild/docs/libraries.md. Those that take gigabytes are
marked ``heavy``: ``-m heavy`` runs them alone, ``-m "not heavy"`` leaves them out and names what it left out.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from engines import require
from environments import install
from libraries import LIBRARIES, Library
from tool import INSTALLED, PROJECT, Tool, cold, copy_project

from kbuild.environment.index.download import make_session
from kbuild.environment.index.package_indexes import find_releases, package_indexes
from kbuild.environment.index.wheel_tags import fits
from kbuild.image.oci.layout import read_index, read_manifest
from kbuild.platform import host_platform
from kbuild.process import run

_NAMES = {"tensorflow": "tensorflow-cpu"}
_FREE = 12e9  # bytes, what the largest of them takes with its environment, downloads and images


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An environment with one library, a cache of its own, and the project; gone when its test has ended."""

    folder: Path
    tool: Tool

    def run(self, *argv: str | Path, **environment: str) -> str:
        """A program of the environment, run in the project; what it prints."""
        program, *rest = argv
        done = self.tool.run([self.folder / "venv/bin" / program, *rest], cwd=self.folder / "project", **environment)
        assert done.code == 0, f"{program} ended with {done.code}\n{done.err[-4000:]}\n{done.out[-2000:]}"
        return done.out


@pytest.fixture
def bench(tool: Tool, kbuild_wheel: Path, tmp_path: Path) -> Iterator[Callable[[Library], Bench]]:
    def make(library: Library) -> Bench:
        free = shutil.disk_usage(tmp_path).free
        enough = free > _FREE or not library.heavy
        require(enough, f"{library.name} wants {_FREE / 1e9:g} GB of disk, there are {free / 1e9:.1f}")
        # Most of the packages are those of any model, and were installed for another one.
        own = cold(tool, tmp_path / "cache", keep=("downloads", "debs", *INSTALLED))
        project = copy_project(tmp_path / "project", PROJECT.parent / "library")
        (project / "src/trained/learning.py").write_text(f'"""Learns with {library.name}."""\n{library.code}')
        (project / "data").mkdir(exist_ok=True)
        asked = [f"{kbuild_wheel}[build]", "kedro-datasets[pickle-pickledataset]>=8.0", "pandas", *library.install]
        asked += cpu_builds(library)
        install(tmp_path / "venv", asked, own.environ())
        return Bench(folder=tmp_path, tool=own)

    yield make
    for name in ("venv", "cache", "project", "uv"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)


def cpu_builds(library: Library) -> list[str]:
    """The newest ``+cpu`` build that pip's places have for this Python, where the library has such builds."""
    if library.cpu is None:
        return []
    places = package_indexes(run=run, environ=os.environ)
    with make_session({**os.environ, **places.environment}) as session:
        found = find_releases(library.cpu, places, environ={**os.environ, **places.environment}, session=session)
    python, platform = ".".join(map(str, sys.version_info[:3])), host_platform()
    fitting = [each for each, files in found.items() if any(fits(file, python, platform) for file in files)]
    cpu = [each for each in fitting if each.local == "cpu"]
    return [f"{library.cpu}=={max(cpu)}"] if cpu else [library.cpu]


@pytest.mark.parametrize(
    "library",
    [pytest.param(each, id=each.name, marks=[pytest.mark.heavy] if each.heavy else []) for each in LIBRARIES],
)
def test_a_model_of_the_library_is_served_as_it_was_trained(
    library: Library, bench: Callable[[Library], Bench], record_property: Callable[[str, object], None]
) -> None:
    made = bench(library)
    # The kernels that training takes are those of the image's processor, not of a variable of this shell.
    made.run("kedro", "run", PYTHONWARNINGS="ignore", OPENBLAS_CORETYPE="")
    [model] = (made.folder / "project/mlartifacts/models").glob("*/artifacts")
    lock = made.folder / "conda-lock.yml"
    made.run("kbuild", "lock", model, "--output", lock)
    locked = {each["name"]: each["version"] for each in yaml.safe_load(lock.read_text())["package"]}
    name = _NAMES.get(library.name, library.name)
    assert name in locked
    sizes = []
    for folder, *options in (("whole",), ("slimmed", "--slim")):
        layout = made.folder / "project" / folder
        made.run("kbuild", "image", model, "--lockfile", lock, "--output", layout, *options)
        sizes.append(image_size(layout))
        assert json.loads(made.run("kbuild", "verify", layout, "--json"))["compared"]
    assert sizes[1] <= sizes[0]
    row = f"| {library.name} | {locked[name]} | {len(locked)} | {sizes[0] / 1e6:.0f} | {sizes[1] / 1e6:.0f} | yes |"
    record_property(library.name, row)


def image_size(layout: Path) -> int:
    """Bytes of an image's layers as they are pulled."""
    [image] = read_index(layout)
    return sum(layer.size for layer in read_manifest(layout, image.digest).layers)
