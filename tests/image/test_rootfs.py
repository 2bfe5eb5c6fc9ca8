from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conda_packages import HOST, SHORT, VERSION, listed, make_conda, make_interpreter

from kbuild.cache.linking import link_roots
from kbuild.cache.tree import tree_digest
from kbuild.digest import digest_bytes, digest_file
from kbuild.environment.lockfile import LockedPackage, Lockfile
from kbuild.errors import BuildFailed, LockfileInvalid
from kbuild.image.engine import make_engine
from kbuild.image.packages.conda_notes import conda_notes
from kbuild.image.packages.environment import PREFIX, Environment, environment_recipe
from kbuild.image.packages.staging import Stage
from kbuild.image.packages.wheel_facts import split_wheels
from kbuild.image.store.pack import pack
from kbuild.model.bundle import read_bundle
from kbuild.plan.base import ResolvedBase
from kbuild.plan.context import finish_context
from kbuild.plan.make import Ingredients, make_plan
from kbuild.plan.render import Template
from kbuild.plan.runtime import runtime_digest
from kbuild.platform import known_platforms
from kbuild.process import run
from kbuild.progress import Silent

pytest.importorskip("rattler")


@pytest.mark.parametrize("outside", ["absolute", "above", "through a link"])
def test_a_conda_package_that_lists_what_lies_outside_is_refused(outside: str, tmp_path: Path) -> None:
    """rattler links each file of ``info/paths.json`` from where it unpacked the package to below the prefix."""
    victim = tmp_path / "victim"
    victim.write_text("of this machine")
    # From below the cache's folder of interpreters, where packages are unpacked, and too far for where they go.
    wanted = {
        "absolute": [(str(victim), "hardlink")],
        "above": [("../" * 6 + "victim", "hardlink")],
        "through a link": [("lib/d", "softlink"), ("lib/d/victim", "hardlink")],
    }[outside]
    digest = digest_bytes(victim.read_bytes()).hex
    paths = [listed(path, kind, sha256=digest, size_in_bytes=15) for path, kind in wanted]
    package = make_conda(tmp_path, "liar", {"share/plain": ""}, paths)
    with pytest.raises(BuildFailed, match=r"liar-1-0\.tar\.bz2 lists ") as caught:
        stage(tmp_path / "a", tmp_path / "cache", make_interpreter(tmp_path), package, make_wheel(tmp_path, "one", {}))
    assert wanted[-1][0] in caught.value.message
    assert list(tmp_path.rglob("victim")) == [victim]
    assert victim.stat().st_nlink == 1


@pytest.mark.slow
def test_what_conda_packages_leave_out_or_bring_twice_is_told(tmp_path: Path) -> None:
    site = f"lib/python{SHORT}/site-packages"
    told = {"share/told": "1"}
    packages = [
        make_interpreter(tmp_path),
        make_conda(tmp_path, "scripted", {"bin/.scripted-post-link.sh": "exit 1", **told}),
        # As proj of conda-forge has it.
        make_conda(tmp_path, "active", {"etc/conda/activate.d/proj4-activate.sh": "export PROJ_DATA=x", "share/a": ""}),
        make_conda(tmp_path, "second", {"share/told": "2", f"{site}/both.py": "conda = 1"}),
        make_conda(tmp_path, "plain", {"share/plain": ""}),
        make_wheel(tmp_path, "wheel", {"both.py": "wheel = 1"}),
    ]
    trees = stage(tmp_path / "a", tmp_path / "cache", *packages)
    notes = conda_notes(trees.interpreter, PREFIX, [trees.dependencies])
    assert [note.partition(":")[0] for note in notes] == [
        "the link scripts of scripted 1 are left out",
        "what active 1 sets when its environment is activated (etc/conda/activate.d/proj4-activate.sh) is not set in"
        " the image",
        "scripted 1, second 1 bring share/told; that of scripted 1 counts",
        f"second 1 of conda and a wheel both bring {site}/both.py; the wheel's files count",
    ]
    assert (trees.interpreter / "opt/env/share/told").read_text() == "1"
    plain = stage(tmp_path / "b", tmp_path / "other", make_interpreter(tmp_path), make_wheel(tmp_path, "one", {}))
    assert conda_notes(plain.interpreter, PREFIX, [plain.dependencies]) == []


def make_wheel(
    folder: Path, name: str, files: dict[str, str], *, needs: Sequence[str] = (), script: str | None = None
) -> Path:
    """With a script, which is called as the wheel where nothing else is said."""
    info = f"{name}-1.dist-info"
    lines = "".join(f"Requires-Dist: {each}\n" for each in needs)
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{lines}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{script or name} = {name}:main\n",
    }
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in files.items():
            archive.writestr(entry, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{entry},,\n" for entry in [*files, f"{info}/RECORD"]))
    return path


def lock(*files: Path, place: str = "https://channel") -> tuple[Lockfile, dict[LockedPackage, Path]]:
    downloads = {}
    for file in files:
        name, version = file.name.split("-")[:2]
        package = LockedPackage(
            name=name,
            version=version,
            manager="conda" if file.name.endswith(".bz2") else "pip",
            platform=HOST,
            url=f"{place}/{file.name}",
            sha256=digest_file(file).hex,
        )
        downloads[package] = file
    lockfile = Lockfile(
        content=place.encode(), packages=tuple(downloads), platforms=(HOST,), channels=(place,), input_digest=None
    )
    return lockfile, downloads


@dataclass(frozen=True)
class Staged:
    interpreter: Path
    dependencies: Path


def stage(into: Path, cache: Path, *files: Path) -> Staged:
    lockfile, downloads = lock(*files)
    environment = Environment(lockfile, HOST, cache=cache, run=run)
    wheels = tuple(package for package in lockfile.packages if package.manager == "pip")
    (group,) = split_wheels(wheels, cache=cache, download=lambda: downloads)
    trees = environment.wheels([group], downloads, into=into, progress=Silent())
    link_roots(trees[group.name], into / group.name)
    return Staged(environment.interpreter(downloads), into / group.name)


@pytest.mark.slow
def test_two_places_and_two_umasks_give_the_same_trees(tmp_path: Path) -> None:
    files = [
        make_interpreter(tmp_path),
        make_wheel(tmp_path, "one", {"space/__init__.py": "", "one.py": "def main(): ..."}),
        make_wheel(tmp_path, "two", {"space/__init__.py": "", "two.py": "x = {{ name }"}),
    ]
    digests = []
    for mask, place in ((0o022, "a"), (0o077, "somewhere/else")):
        old = os.umask(mask)
        try:
            staged = stage(tmp_path / place, tmp_path / f"cache-{mask}", *files)
        finally:
            os.umask(old)
        digests.append((tree_digest(staged.interpreter), tree_digest(staged.dependencies)))
        for path in (tmp_path / place).rglob("*"):
            if path.is_file() and path.suffix != ".bz2":
                # The stand-in for python names the interpreter that runs this test; nothing names the stage.
                assert str(tmp_path / place).encode() not in path.read_bytes(), path
    assert digests[0] == digests[1]

    library = staged.interpreter / f"opt/env/lib/python{SHORT}"
    assert (library / "config.py").read_text() == "prefix = '/opt/env'\n"
    tag = f"cpython-{SHORT.replace('.', '')}"
    assert [path.name for path in (library / "__pycache__").iterdir()] == [f"config.{tag}.pyc"]
    site = staged.dependencies / f"opt/env/lib/python{SHORT}/site-packages"
    assert (site / f"__pycache__/one.{tag}.pyc").is_file()
    assert not (site / f"__pycache__/two.{tag}.pyc").exists()
    record = json.loads((staged.interpreter / f"opt/env/conda-meta/python-{VERSION}-0.json").read_text())
    assert record["fn"] == f"python-{VERSION}-0.tar.bz2"
    assert "url" not in record
    assert sorted(path.name for path in (staged.interpreter / "opt/env").iterdir()) == ["bin", "conda-meta", "lib"]


@pytest.mark.slow
def test_the_same_packages_from_another_place_are_the_same_image(tmp_path: Path) -> None:
    files = [make_interpreter(tmp_path), make_wheel(tmp_path, "one", {"one.py": "x = 1"})]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/MLmodel").write_text(
        "flavors: {python_function: {loader_module: x, python_version: 3.11.7, env: conda.yaml}}"
    )
    (tmp_path / "model/conda.yaml").write_text("dependencies: []")

    bundle = read_bundle(tmp_path / "model")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/file").write_text("base")
    base = ResolvedBase(kind="debs", name="debian:x", digest=digest_bytes(b""), path=tmp_path / "base")
    built = {}
    for place in ("https://channel", "$KBUILD_CHANNEL", "https://u:p@mirror.example/a%20b"):
        lockfile, downloads = lock(*files, place=place)
        # A cache each: nothing of the one is taken for the other.
        cache = tmp_path / f"cache-{len(built)}"
        environment = Environment(lockfile, HOST, cache=cache, run=run)
        (wheel,) = (package for package in lockfile.packages if package.manager == "pip")
        groups = split_wheels((wheel,), cache=cache, download=lambda found=downloads: found)  # type: ignore[misc]
        ingredients = Ingredients(
            bundle=bundle,
            lockfile=lockfile,
            base=base,
            platform=HOST,
            runtime=runtime_digest(),
            recipe=str(environment_recipe(VERSION, HOST)),
        )
        plan = make_plan(ingredients, groups, Template())
        stage = Stage(bundle=bundle, owned=False, base=base, environment=environment, groups=groups)
        trees = stage.lay([layer.name for layer in plan.layers], downloads, into=cache / "x", progress=Silent())
        for tree in (each for roots in trees.values() for each in roots):
            assert not [file for file in tree.rglob("*") if file.is_file() and place.encode() in file.read_bytes()]
        context = finish_context(cache / "x", plan, trees)
        output = make_engine("native", run).build(context, base, workdir=cache, progress=Silent())
        built[place] = pack(output, plan, cache / "image", engine="native", progress=Silent()).digest, plan.digest
    assert len(set(built.values())) == 1


@pytest.mark.slow
def test_a_second_environment_takes_its_wheels_from_the_cache(tmp_path: Path) -> None:
    python = make_interpreter(tmp_path)
    one, two = (make_wheel(tmp_path, name, {f"{name}.py": ""}) for name in ("one", "two"))
    first = stage(tmp_path / "a", tmp_path / "cache", python, one)
    second = stage(tmp_path / "b", tmp_path / "cache", python, one, two)
    site = f"opt/env/lib/python{SHORT}/site-packages/one.py"
    assert (first.dependencies / site).stat().st_ino == (second.dependencies / site).stat().st_ino
    assert first.interpreter == second.interpreter
    assert len(list((tmp_path / "cache/wheels").iterdir())) == 2


def test_a_lock_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LockfileInvalid, match="no python"):
        stage(tmp_path / "a", tmp_path / "cache", make_wheel(tmp_path, "one", {}))
    assert not (tmp_path / "a").exists()


def test_a_damaged_conda_package_is_one_line(tmp_path: Path) -> None:
    package = make_interpreter(tmp_path)
    package.write_bytes(b"no archive")
    with pytest.raises(BuildFailed, match=r"conda packages cannot be installed: \S") as caught:
        stage(tmp_path / "a", tmp_path / "cache", package, make_wheel(tmp_path, "one", {}))
    assert "\n" not in caught.value.message
    assert not list((tmp_path / "cache/interpreters").iterdir())


def test_the_recipe_is_known_before_anything_is_staged() -> None:
    known = environment_recipe(VERSION, HOST)
    assert all(known != environment_recipe(VERSION, each) for each in known_platforms() if each != HOST)
