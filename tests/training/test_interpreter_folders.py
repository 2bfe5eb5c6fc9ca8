"""What is seen of an interpreter's folders, by who wrote down what is in them."""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
from pathlib import Path

import pytest

from kbuild.environment.captured import capture
from kbuild.recording.around import standard_library
from kbuild.recording.around.conda import find_conda_names
from kbuild.recording.around.standard_library import find_library_names
from kbuild.recording.clean_check import name_another_kernel


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def test_of_a_conda_environment_only_what_its_packages_list_is_there(tmp_path: Path) -> None:
    listed = ["bin/python3.11", "lib/python3.11/os.py", "lib/python3.11/json/__init__.py", "lib/libz.so.1", "share/a/b"]
    write(tmp_path, *listed, "bin/own", "lib/python3.11/json/own.py", "share/a/own.txt", "share/nltk_data/x", "etc/x")
    write(
        tmp_path, "lib/python3.11/__pycache__/os.pyc", "lib/python3.11/site-packages/any/x.py", "conda-meta/broken.json"
    )
    (tmp_path / "conda-meta" / "python-3.11.7-0.json").write_text(json.dumps({"name": "python", "files": listed}))
    owned = {tmp_path / "lib" / "python3.11" / "site-packages", tmp_path / "bin" / "mlflow"}
    write(tmp_path, "bin/mlflow")
    seen = {str(folder.relative_to(tmp_path)): names for folder, names in find_conda_names(tmp_path, owned)}
    assert seen == {
        ".": {"bin", "lib", "share"},
        "bin": {"python3.11", "mlflow"},
        "share": {"a"},
        "share/a": {"b"},
        "lib/python3.11/json": {"__init__.py"},
    }


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "lib" / "python3.11"
    write(folder, "os.py", "json/__init__.py", "json/own.py", "json.own.txt", "own.py", "test/x.py", "zoneinfo/Berlin")
    write(folder, "zoneinfo/__init__.py", "json/__pycache__/x.pyc", "json/__pycache__/x.txt")
    return folder


EXPECTED = {".": {"os.py", "json", "zoneinfo"}, "json": {"__init__.py", "__pycache__"}, "json/__pycache__": {"x.pyc"}}
EXPECTED["zoneinfo"] = {"__init__.py"}


def test_of_the_standard_library_what_was_written_later_is_not_there(library: Path) -> None:
    written = Path(sys.executable).resolve().stat().st_mtime
    for path in library.rglob("*"):
        later = path.name in ("Berlin", "own.py")
        os.utime(path, (written, written + (7200 if later else 0)))
    seen = {str(folder.relative_to(library)): names for folder, names in find_library_names(library)}
    assert seen == EXPECTED


def test_of_a_packaged_standard_library_what_its_packages_list_is_there(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "info"
    lists.mkdir()
    listed = ["os.py", "json", "json/__init__.py", "zoneinfo", "zoneinfo/__init__.py"]
    (lists / "libpython3.11-stdlib:amd64.list").write_text("".join(f"{library}/{each}\n" for each in listed))
    monkeypatch.setattr(standard_library, "_LISTS", lists)
    monkeypatch.setattr(standard_library, "_PACKAGED", tmp_path)
    seen = {str(folder.relative_to(library)): names for folder, names in find_library_names(library)}
    assert seen == EXPECTED


def test_of_this_interpreter_all_is_there_but_what_images_leave_out() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    gone = {
        str((inner / each.name).relative_to(folder))
        for inner, names in find_library_names(folder)
        for each in inner.iterdir()
        if each.name not in names and "kbuild-test-" not in each.name  # what the tests of hostile modules put there
    }
    assert not [each for each in gone if not standard_library._LEFT_OUT.fullmatch(Path(each).name)]


def test_what_images_leave_out_is_what_a_capture_leaves_out() -> None:
    names: set[str] = set()
    for _, folders, files in os.walk(sysconfig.get_path("stdlib")):
        names |= {*folders, *files}
        folders[:] = [each for each in folders if each != "site-packages"]  # which may hold far more than all the rest
    assert len(names) > 500
    names |= {f"{each}.cpython-311-x86_64-linux-gnu.so" for each in ("_tkinter", "nis", "_testcapi", "xxlimited_35")}
    # Nobody imports these, or Python makes them anew, or they are hidden as no part of a standard library.
    apart = re.compile(
        r"__pycache__|.*\.(pyc|a|o)|config-\d.*|(site|dist)-packages|kbuild-test-.*|EXTERNALLY-MANAGED|.*customize\.py"
    )
    differ = [
        name
        for name in names
        if not apart.fullmatch(name)
        and capture._left_out(name) != (standard_library._LEFT_OUT.fullmatch(name) is not None)
    ]
    assert differ == []


@pytest.mark.parametrize("release", ["6.1.0-13-amd64", "5.15.0-101-generic", "5.15.0", "4.18.0"])
def test_another_kernel_is_named(release: str) -> None:
    told = name_another_kernel(release)
    assert told.split(".")[:2] != release.split(".")[:2]
