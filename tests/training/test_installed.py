"""Files of installed packages, by what their installer wrote down."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from kbuild.errors import RecordingError
from kbuild.recording.around.installed import read_installed
from kbuild.recording.around.system import find_covered, is_assembled
from kbuild.recording.clean_check import ask_in_clean_process
from kbuild.recording.surroundings import find_surroundings


def install(folder: Path, files: dict[str, str], name: str = "alpha", installer: str = "pip") -> None:
    """As an installer does: the files, then what there is of them."""
    own = f"{name}-1.0.dist-info"
    files = {**files, f"{own}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"}
    files[f"{own}/INSTALLER"] = f"{installer}\n"
    rows = []
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        rows.append(f"{path},sha256={digest},{len(text)}")
    (folder / own / "RECORD").write_text("\n".join([*rows, f"{own}/RECORD,,", "../../bin/alpha,,"]))


def test_files_that_nobody_installed_are_not_there(tmp_path: Path) -> None:
    install(tmp_path, {"alpha/__init__.py": "", "alpha/data/a.csv": "1", "alpha/deep/er/x.py": ""})
    for extra in ("alpha/data/own.csv", "alpha/deep/er/own.py", "alpha/own/x.txt", "own.txt"):
        (tmp_path / extra).parent.mkdir(exist_ok=True)
        (tmp_path / extra).write_text("2")
    (tmp_path / "alpha" / "__pycache__").mkdir()
    (tmp_path / "alpha" / "__pycache__" / "x.cpython-311.pyc").write_text("")
    (tmp_path / "alpha" / "__pycache__" / "own.txt").write_text("2")
    found = read_installed({"alpha"}, tmp_path)
    assert found.tops == {"alpha", "alpha-1.0.dist-info"}
    assert {str(folder.relative_to(tmp_path)): names for folder, names in found.find_extra()} == {
        "alpha": {"__init__.py", "__pycache__", "data", "deep"},
        "alpha/__pycache__": {"x.cpython-311.pyc"},
        "alpha/data": {"a.csv"},
        "alpha/deep/er": {"x.py"},
    }
    assert found.changed == []
    assert found.outside == {tmp_path.parents[1] / "bin" / "alpha"}


def test_of_a_shared_folder_only_what_is_present_is_there(tmp_path: Path) -> None:
    install(tmp_path, {"space/alpha/x.py": ""})
    install(tmp_path, {"space/beta/y.py": ""}, name="beta")
    [(folder, names)] = read_installed({"alpha"}, tmp_path).find_extra()
    assert (folder, names) == (tmp_path / "space", {"alpha"})
    assert list(read_installed({"alpha", "beta"}, tmp_path).find_extra()) == []


@pytest.mark.parametrize("text", ["xxxx", "yyy"])
def test_changed_files_are_named(text: str, tmp_path: Path) -> None:
    install(tmp_path, {"alpha/__init__.py": "abc", "alpha/x.py": "abc"})
    (tmp_path / "alpha" / "x.py").write_text(text)
    later = (tmp_path / "alpha-1.0.dist-info" / "RECORD").stat().st_mtime + 60
    os.utime(tmp_path / "alpha" / "x.py", (later, later))
    os.utime(tmp_path / "alpha" / "__init__.py", (later, later))  # written to, and the same
    assert read_installed({"alpha"}, tmp_path).changed == [str(tmp_path / "alpha" / "x.py")]


def test_what_conda_installed_is_there_whole(tmp_path: Path) -> None:
    install(tmp_path, {"alpha/x.py": "abc"}, installer="conda")
    (tmp_path / "alpha" / "x.py").write_text("with another prefix")
    (tmp_path / "alpha" / "y.py").write_text("")
    found = read_installed({"alpha"}, tmp_path)
    assert found.changed == []
    assert list(found.find_extra()) == []


def test_a_changed_package_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, {"alpha/x.py": "abc"})
    (tmp_path / "alpha" / "x.py").write_text("patched")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("kbuild.recording.surroundings._site_folders", lambda: [tmp_path])
    with pytest.raises(RecordingError, match=r"alpha/x\.py") as caught:
        ask_in_clean_process(tmp_path, blocked=[], shipped=[], closure=["alpha"], timeout=10)
    assert "--force-reinstall" in str(caught.value.hint)


def test_libraries_of_the_base_are_there_and_no_others() -> None:
    names = {name for _, names in find_covered(None) for name in names}
    assert not [name for name in names if name.startswith(("libcurl", "libxml2", "libperl", "libgmp", "libGL"))]
    assert is_assembled("debian:bookworm")
    assert not is_assembled("registry.example/python:3.11")


def test_of_a_base_of_somebody_else_all_libraries_may_be_there() -> None:
    assembled, other = (
        find_surroundings(["packaging"]),
        find_surroundings(["packaging"], "registry.example/python:3.11"),
    )
    libraries = [each for each in assembled.covered if "/lib64" in each or "linux-gnu" in each]
    assert not set(libraries) & set(other.covered)
    assert set(libraries) <= set(other.binds)
