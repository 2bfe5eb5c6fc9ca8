"""A project that conda and the index both bring; what there is then is asked of pip itself."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conda_packages import SHORT, make_conda, make_interpreter
from test_rootfs import lock, make_wheel, stage

from kbuild.environment.replaced import find_replaced

pytest.importorskip("rattler")
SITE = f"lib/python{SHORT}/site-packages"
OLD = {
    f"{SITE}/alpha/__init__.py": "version = 1",
    f"{SITE}/alpha/only_conda.py": "",
    f"{SITE}/alpha/deep/er.py": "",
    "bin/alpha-tool": "#!/bin/sh\n",
    "share/alpha.txt": "not of the distribution",
}
NEW = {"alpha/__init__.py": "version = 2", "alpha/only_wheel.py": ""}


def with_metadata(files: dict[str, str], *, kind: str) -> dict[str, str]:
    text = "Metadata-Version: 2.1\nName: Al.Pha\nVersion: 0.9\n"
    if kind == "egg-info":
        return files | {f"{SITE}/al.pha-0.9-py{SHORT}.egg-info": text}
    info = f"{SITE}/al_pha-0.9.dist-info"
    inside = [path.removeprefix(f"{SITE}/") for path in files if path.startswith(SITE)]
    rows = [*inside, "../../../bin/alpha-tool", "al_pha-0.9.dist-info/METADATA", "al_pha-0.9.dist-info/RECORD"]
    return files | {f"{info}/METADATA": text, f"{info}/RECORD": "".join(f"{row},,\n" for row in rows)}


def files_of(root: Path) -> set[str]:
    """Without what names the interpreter, bytecode, and what each installer writes beside the metadata."""
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    ours = {path for path in found if "alpha" in path or "al_pha" in path or "al.pha" in path}
    return {path for path in ours if "__pycache__" not in path and "conda-meta" not in path}


@pytest.mark.slow
def test_what_conda_put_in_is_taken_out_as_pip_does_it(tmp_path: Path) -> None:
    old = with_metadata(OLD, kind="dist-info")
    wheel = make_wheel(tmp_path, "al_pha", NEW)
    trees = stage(
        tmp_path / "a", tmp_path / "cache", make_interpreter(tmp_path), make_conda(tmp_path, "al.pha", old), wheel
    )
    there = tmp_path / "venv"
    venv.create(there, symlinks=True)
    for path, text in old.items():
        (there / path).parent.mkdir(parents=True, exist_ok=True)
        (there / path).write_text(text)
    pip = [sys.executable, "-m", "pip", "--python", str(there / "bin/python"), "--isolated"]
    subprocess.run([*pip, "install", "-q", "--no-index", "--no-deps", wheel], check=True)
    wanted = {path for path in files_of(there) if not path.endswith(("/REQUESTED", "/direct_url.json"))}
    assert files_of(trees.interpreter / "opt/env") | files_of(trees.dependencies / "opt/env") == wanted
    assert files_of(trees.interpreter / "opt/env") == {"share/alpha.txt"}
    assert f"{SITE}/alpha/only_wheel.py" in wanted
    listed = (trees.interpreter / "opt/env/conda-meta/al.pha-1-0.json").read_text()
    assert "share/alpha.txt" in listed
    assert "only_conda" not in listed


@pytest.mark.slow
def test_metadata_without_a_record_goes_with_what_conda_lists(tmp_path: Path) -> None:
    """Of distutils, which pip refuses to uninstall; conda has replaced none of them for years."""
    old = with_metadata(OLD, kind="egg-info")
    packages = [make_interpreter(tmp_path), make_conda(tmp_path, "al.pha", old), make_wheel(tmp_path, "al_pha", NEW)]
    trees = stage(tmp_path / "a", tmp_path / "cache", *packages)
    assert files_of(trees.interpreter / "opt/env") == {"share/alpha.txt", "bin/alpha-tool"}


@pytest.mark.slow
def test_others_stay_and_names_are_the_indexs(tmp_path: Path) -> None:
    """conda-forge's torch is pytorch, by its own package urls (data of the shipped table)."""
    packages = [
        make_interpreter(tmp_path),
        make_conda(tmp_path, "pytorch", {f"{SITE}/torch-1.dist-info/METADATA": "Name: torch"}),
        make_conda(tmp_path, "numpy", {f"{SITE}/numpy-1.dist-info/METADATA": "Name: numpy"}),
        make_wheel(tmp_path, "torch", {"torch.py": ""}),
    ]
    lockfile, _ = lock(*packages)
    assert {a.name: b.name for a, b in find_replaced(lockfile.packages).items()} == {"pytorch": "torch"}
    trees = stage(tmp_path / "a", tmp_path / "cache", *packages)
    site = trees.interpreter / "opt/env" / SITE
    assert (site / "numpy-1.dist-info/METADATA").is_file()
    assert not (site / "torch-1.dist-info").exists()
