"""The same packages from other places, and bases that are not what they are named."""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from engines import install_engine, require
from mirror import serve_wheels
from tool import Tool

from kbuild.digest import digest_bytes
from kbuild.image.engine import EngineOutput, RawLayer
from kbuild.image.store.pack import pack
from kbuild.plan.build_plan import BuildPlan, ImageConfig
from kbuild.platform import host_platform
from kbuild.progress import Silent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that needs little, as nothing is asked of it here."""
    folder = tmp_path_factory.mktemp("elsewhere") / "model"
    folder.mkdir()
    python = platform.python_version()
    flavor = {"loader_module": "mlflow.pyfunc.model", "python_version": python, "env": {"conda": "conda.yaml"}}
    described = {"flavors": {"python_function": flavor}, "utc_time_created": "2026-11-20 10:00:00"}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    env = {"name": "x", "dependencies": [f"python={python}", "pip", {"pip": ["jinja2", "packaging"]}]}
    (folder / "conda.yaml").write_text(yaml.safe_dump(env))
    return folder


@pytest.fixture(scope="module")
def built(model: Path, tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model's image from the index that is configured here, in a cache of its own."""
    own = replace(tool, cache=tmp_path_factory.mktemp("first") / "cache")
    lock = own.cache.parent / "conda-lock.yml"
    own("lock", model, "-o", lock)
    return {**own("image", model, "--json").json, "lock": lock, "cache": own.cache}


def wheels_of(cache: Path) -> list[Path]:
    return sorted(cache.glob("downloads/*/*.whl"))


def packages(lock: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in yaml.safe_load(lock.read_text(encoding="utf-8"))["package"]}


def test_the_same_wheels_by_another_index_are_the_same_image(
    model: Path, built: dict[str, Any], tool: Tool, tmp_path: Path
) -> None:
    with serve_wheels(wheels_of(built["cache"])) as mirror:
        only = {**tool.environment, "PIP_INDEX_URL": mirror.url, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
        own = replace(tool, cache=tmp_path / "cache", environment=only)
        lock = tmp_path / "conda-lock.yml"
        own("lock", model, "-o", lock)
        mirrored = own("image", model, "--json").json
    first, second = packages(built["lock"]), packages(lock)
    pip = [name for name, each in first.items() if each["manager"] == "pip"]
    assert {"jinja2", "markupsafe", "packaging"} <= set(pip)
    for name in pip:
        assert second[name]["url"].startswith(mirror.url.removesuffix("simple"))
        assert not first[name]["url"].startswith(mirror.url.removesuffix("simple"))
        assert second[name]["hash"]["sha256"] == first[name]["hash"]["sha256"]
    assert mirrored["digest"] == built["digest"]
    assert mirrored["lock_digest"] == built["lock_digest"]


@dataclass(frozen=True)
class FolderTar:
    folder: Path

    def chunks(self) -> Iterator[bytes]:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.add(self.folder, arcname=".")
        yield out.getvalue()


def make_base(tree: Path, target: Path) -> Path:
    """An image layout whose one layer is this folder."""
    nothing = ImageConfig(user="", entrypoint=(), env=(), exposed_port=1, healthcheck=(), stop_signal="", labels=())
    plan = BuildPlan(
        base=digest_bytes(b""), base_name="", from_line="scratch", platform=host_platform(), created=0, layers=(),
        config=nothing, annotations=(), dockerfile="",
    )  # fmt: skip
    output = EngineOutput(layers=(RawLayer(content=FolderTar(tree), created_by="test"),), config={})
    return pack(output, plan, target, engine="native", progress=Silent()).layout


def unpack_package(name: str, into: Path) -> None:
    got = subprocess.run(["apt-get", "-q", "download", name], cwd=into.parent, capture_output=True, text=True)
    require(got.returncode == 0, f"{name} cannot be downloaded: {got.stderr.strip()}")
    subprocess.run(["dpkg-deb", "-x", str(next(into.parent.glob(f"{name}_*.deb"))), str(into)], check=True)


def test_bases_that_run_no_python_of_ours_are_refused_in_one_line(
    model: Path, built: dict[str, Any], tool: Tool, busybox: Path, tmp_path: Path
) -> None:
    install_engine()
    trees = {name: tmp_path / name for name in ("empty", "static", "musl")}
    for tree in trees.values():
        (tree / "bin").mkdir(parents=True)
    for name in ("static", "musl"):
        shutil.copy(busybox, trees[name] / "bin/busybox")
        (trees[name] / "bin/sh").symlink_to("busybox")
    unpack_package("musl", trees["musl"])
    own = replace(tool, cache=built["cache"])
    said = {}
    for name, tree in trees.items():
        layout = make_base(tree, tmp_path / f"{name}-base")
        done = own("image", model, "--base", layout, code=33)
        said[name] = done.error_lines
        assert "staging" not in done.err and len(done.error_lines) == 2, done.err
    assert "it has no glibc" in said["empty"][0] and "it has no glibc" in said["static"][0]
    assert "its C library is musl (/lib/ld-musl-" in said["musl"][0]
    # None of them is what the next build takes by itself.
    assert own("image", model, "--json").json["digest"] == built["digest"]


def test_an_older_glibc_is_refused_and_a_fitting_base_is_built_on(
    model: Path, built: dict[str, Any], tool: Tool, tmp_path: Path
) -> None:
    own = replace(tool, cache=built["cache"])
    (assembled,) = (path for path in (built["cache"] / "bases").iterdir() if path.is_dir())
    done = own("image", model, "--base", make_base(assembled, tmp_path / "same"), "--json").json
    assert done["digest"] != built["digest"]
    old = tmp_path / "old"
    shutil.copytree(assembled, old, symlinks=True)
    (libc,) = {path.resolve() for path in old.rglob("libc.so.6")}
    version = platform.libc_ver()[1].encode()
    content = libc.read_bytes()
    assert content.count(b"release version " + version) == 1
    libc.unlink()
    libc.write_bytes(content.replace(b"release version " + version, b"release version 2.17"))
    done = own("image", model, "--base", make_base(old, tmp_path / "old-base"), code=33)
    assert "and the image has 2.17" in done.error_lines[0] or "has glibc 2.17" in done.error_lines[0]


def test_a_run_in_a_template_needs_a_shell_in_the_base(
    model: Path, built: dict[str, Any], tool: Tool, tmp_path: Path
) -> None:
    template = tmp_path / "mine.j2"
    run = "RUN apt-get update && apt-get install -y libgomp1"
    template.write_text(f'{{% extends "model.Dockerfile.j2" %}}{{% block before_user %}}\n{run}\n{{% endblock %}}\n')
    own = replace(tool, cache=tmp_path / "cache")
    done = own("image", model, "--template", template, code=30)
    assert "RUN apt-get update" in done.error_lines[0] and "has no shell" in done.error_lines[0]
    assert not list((tmp_path / "cache").glob("downloads/*/*.whl"))  # told before anything was fetched for it


def test_a_package_that_left_its_index_is_found_in_another_or_named(
    model: Path, built: dict[str, Any], tool: Tool, tmp_path: Path
) -> None:
    wheels = wheels_of(built["cache"])
    jinja = next(path.name for path in wheels if path.name.startswith("jinja2"))
    with serve_wheels(wheels) as first, serve_wheels(wheels) as second:
        second.yanked[jinja] = "it was released by mistake"
        both = {**tool.environment, "PIP_INDEX_URL": first.url, "PIP_EXTRA_INDEX_URL": second.url, "PIP_FIND_LINKS": ""}
        own = replace(tool, cache=tmp_path / "cache", environment=both)
        lock = tmp_path / "conda-lock.yml"
        own("lock", model, "-o", lock)
        locked = packages(lock)["jinja2"]["url"]
        here, there = (first, second) if locked.startswith(first.url.removesuffix("simple")) else (second, first)
        here.gone.add(jinja)
        done = own("image", model, "--lockfile", lock, "--json")
        assert done.json["digest"] == built["digest"]
        assert done.json["yanked"] == (
            [f"jinja2 {packages(lock)['jinja2']['version']} was yanked by its authors: it was released by mistake"]
            if there is second
            else []
        )
        assert all(each in done.err for each in done.json["yanked"])
        there.gone.add(jinja)
        cold = replace(own, cache=tmp_path / "cold")
        (tmp_path / "cold").mkdir()
        shutil.copytree(tmp_path / "cache/channel", tmp_path / "cold/channel")
        done = cold("image", model, "--lockfile", lock, code=21)
    assert f"jinja2 {packages(lock)['jinja2']['version']} is gone" in done.error_lines[0]
    assert "kbuild lock --force" in done.error_lines[-1]


def test_an_image_of_a_model_folder_is_rebuilt_when_the_folder_is_given(
    model: Path, built: dict[str, Any], tool: Tool, tmp_path: Path
) -> None:
    own = replace(tool, cache=built["cache"])
    done = own("verify", "--rebuild", "--reuse-downloads", "--model", model, built["layout"], "--json").json
    assert (done["verdict"], done["rebuilt"]) == ("same", built["digest"])
    assert "--model FOLDER" in own("verify", "--rebuild", built["layout"], code=44).err
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "more").write_text("x")
    done_otherwise = own("verify", "--rebuild", "--model", other, built["layout"], code=15)
    assert "is another model than the image's" in done_otherwise.error_lines[0]


def test_an_image_that_another_compressor_packed_has_a_verdict_of_its_own(
    model: Path, built: dict[str, Any], tool: Tool, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), "zstandard==0.23.0"]
    got = subprocess.run(pip, capture_output=True, text=True)
    require(got.returncode == 0, f"zstandard 0.23 cannot be installed: {got.stderr.strip()}")
    own = replace(tool, cache=built["cache"])
    again = ("verify", "--rebuild", "--reuse-downloads", "--model", model, built["layout"])
    done = own(*again, code=53, PYTHONPATH=str(tmp_path))
    assert "same content, packed otherwise by libzstd 1.5.7, level 3" in done.error_lines[0]
    assert "here libzstd 1.5.6, level 3" in done.error_lines[0]
    # Nothing that somebody else is to have is packed with it.
    done = own("image", model, "--no-cache", code=37, PYTHONPATH=str(tmp_path))
    assert "zstandard 0.23.0 compresses with libzstd 1.5.6" in done.error_lines[0]
