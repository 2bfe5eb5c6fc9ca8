import io
import json
import os
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from packaging.requirements import Requirement

from kbuild.environment.captured.capture import (
    PLACEHOLDER,
    CapturedInterpreter,
    InterpreterLayout,
    capture_interpreter,
    running_interpreter,
    without_machine_paths,
)
from kbuild.environment.captured.elf import is_elf, required_glibc
from kbuild.errors import InterpreterCaptureFailed, OutputError
from kbuild.process import Completed
from kbuild.progress import Silent

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
FACTS = "build_time_vars = {'prefix': '/opt/py', 'LIBS': '-L/opt/py/lib', 'abs_builddir': '/tmp/b', 'SRC': '/tmp/b/x'}"


@pytest.fixture
def layout(tmp_path: Path) -> InterpreterLayout:
    """A Python installation of text files; what is an ELF file in a real one is left to the real one."""
    root = tmp_path / "python"
    stdlib = root / "lib" / "python3.11"
    for name in (
        "os.py",
        "LICENSE.txt",
        "encodings/utf_8.py",
        "encodings/__pycache__/utf_8.pyc",
        "lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
        "lib-dynload/_tkinter.cpython-311-x86_64-linux-gnu.so",
        "lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so",
        "unittest/case.py",
        "unittest/test/test_case.py",
        "test/regrtest.py",
        "idlelib/idle.py",
        "tkinter/__init__.py",
        "ensurepip/__init__.py",
        "lib2to3/main.py",
        "config-3.11-x86_64-linux-gnu/Makefile",
        "config-3.11-x86_64-linux-gnu/libpython3.11.a",
        "site-packages/numpy/__init__.py",
        "dist-packages/apt.py",
        "EXTERNALLY-MANAGED",
    ):
        path = stdlib / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (stdlib / "_sysconfigdata__linux_x86_64-linux-gnu.py").write_text(FACTS)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "linked.py").write_text("linked")
    (stdlib / "linked.py").symlink_to(tmp_path / "etc" / "linked.py")
    (stdlib / "sitecustomize.py").symlink_to(tmp_path / "etc" / "gone.py")
    (root / "bin").mkdir()
    (root / "bin" / "python3.11").write_text("program")
    return InterpreterLayout(
        version="3.11.7", executable=root / "bin" / "python3.11", stdlib=stdlib, prefix=Path("/opt/py")
    )


def no_tools(argv: Sequence[str], **_: Any) -> Completed:
    return Completed(tuple(argv), 0, "", "")


def capture(channel: Path, layout: InterpreterLayout) -> CapturedInterpreter:
    return capture_interpreter(channel, run=no_tools, progress=Silent(), layout=layout)


def contents(package: Path, part: str) -> dict[str, tarfile.TarInfo]:
    return {member.name: member for member in _tar(package, part).getmembers()}


def text(package: Path, part: str, name: str) -> str:
    file = _tar(package, part).extractfile(name)
    assert file is not None
    return file.read().decode()


def _tar(package: Path, part: str) -> tarfile.TarFile:
    with zipfile.ZipFile(package) as archive:
        (name,) = (name for name in archive.namelist() if name.startswith(f"{part}-"))
        with zstandard.ZstdDecompressor().stream_reader(archive.read(name)) as frame:
            return tarfile.TarFile(fileobj=io.BytesIO(frame.read()))


def test_what_goes_into_the_package(layout: InterpreterLayout, tmp_path: Path) -> None:
    package = capture(tmp_path / "channel", layout).package
    members = contents(package, "pkg")
    assert sorted(members) == [
        "bin/python",
        "bin/python3",
        "bin/python3.11",
        "lib/python3.11/LICENSE.txt",
        "lib/python3.11/_sysconfigdata__linux_x86_64-linux-gnu.py",
        "lib/python3.11/dist-packages",
        "lib/python3.11/encodings/utf_8.py",
        "lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so",
        "lib/python3.11/linked.py",
        "lib/python3.11/os.py",
        "lib/python3.11/site-packages/README.txt",
        "lib/python3.11/unittest/case.py",
    ]
    assert members["bin/python3.11"].mode == 0o755
    assert members["lib/python3.11/linked.py"].isfile()
    assert members["lib/python3.11/dist-packages"].linkname == "site-packages"
    assert {(member.mtime, member.uid, member.uname) for member in members.values()} == {(0, 0, "")}


def test_paths_of_the_machine_become_a_placeholder_that_installers_replace(
    layout: InterpreterLayout, tmp_path: Path
) -> None:
    package = capture(tmp_path / "channel", layout).package
    name = "lib/python3.11/_sysconfigdata__linux_x86_64-linux-gnu.py"
    assert text(package, "pkg", name) == FACTS.replace("/opt/py", PLACEHOLDER).replace("/tmp/b", f"{PLACEHOLDER}/src")
    entries = json.loads(text(package, "info", "info/paths.json"))["paths"]
    assert [entry["_path"] for entry in entries if "prefix_placeholder" in entry] == [name]


def test_only_whole_prefixes_are_replaced() -> None:
    given = "'/usr' './usr' '/usr/lib:/usr' '-I/usr/include' '/usr/lib2' '/x/usr' '/usrlocal' '/usr-x'"
    made = without_machine_paths(given, "/usr").replace(PLACEHOLDER, "@")
    assert made == "'@' '.@' '@/lib:@' '-I@/include' '@/lib2' '/x/usr' '/usrlocal' '/usr-x'"


def test_the_same_bytes_from_two_folders_umasks_and_days(layout: InterpreterLayout, tmp_path: Path) -> None:
    one = capture(tmp_path / "one", layout)
    os.utime(layout.stdlib / "os.py", (1, 1))
    before = os.umask(0o077)
    try:
        other = capture(tmp_path / "elsewhere" / "two", layout)
    finally:
        os.umask(before)
    assert (one.sha256, one.package.name) == (other.sha256, other.package.name)
    (layout.stdlib / "os.py").write_text("changed")
    assert capture(tmp_path / "three", layout).sha256 != one.sha256


def test_an_interpreter_is_packaged_once_while_nothing_of_it_changes(
    layout: InterpreterLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, library = tmp_path / "channel", tmp_path / "libz.so.1"
    library.write_text("one")
    layout = replace(layout, executable=Path(sys.executable).resolve())  # an ELF file, whose libraries are asked for
    tools: list[str] = []

    def run(argv: Sequence[str], **_: object) -> Completed:
        tools.append(Path(argv[0]).name)
        told = {"ldd": f"\tlibz.so.1 => {library} (0x0)\n", "patchelf": "patchelf 0.19.2\n"}
        return Completed(tuple(argv), 0, told.get(tools[-1], ""), "")

    def made() -> CapturedInterpreter | None:
        """What is captured, None where nothing had to be made."""
        tools.clear()
        captured = capture_interpreter(channel, run=run, progress=Silent(), layout=layout)
        repodata = json.loads((captured.package.parent / "repodata.json").read_text())
        assert list(repodata["packages.conda"]) == [captured.package.name]
        answers.append(captured)
        return captured if tools else None

    answers: list[CapturedInterpreter] = []
    monkeypatch.setattr("kbuild.environment.captured.elf.required_glibc", lambda _: (2, 36))
    first = made()
    assert first is not None
    assert made() is None
    assert answers[0] == answers[1]
    library.write_text("other")  # of a library, of the standard library, and one more file of it
    assert made() is not None
    (layout.stdlib / "os.py").write_text("changed")
    assert made() is not None
    (layout.stdlib / "new.py").write_text("")
    changed = made()
    assert changed is not None and changed.sha256 != first.sha256
    assert made() is None
    changed.package.write_bytes(b"damaged")
    assert made() is not None
    changed.package.unlink()
    assert made() is not None
    for record in (channel / "captured").iterdir():
        record.write_text("{}")
    assert made() is not None
    library.unlink()
    library.write_text("moved")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert made() is not None


def test_the_channel_offers_the_package(layout: InterpreterLayout, tmp_path: Path) -> None:
    captured = capture(tmp_path, layout)
    (record,) = json.loads((captured.package.parent / "repodata.json").read_text())["packages.conda"].values()
    assert record["sha256"] == captured.sha256.hex
    assert (record["name"], record["version"], record["depends"]) == (
        "python",
        "3.11.7",
        [f"__glibc >={captured.glibc}"],
    )
    assert record["build"].endswith("_cpython")
    assert json.loads((tmp_path / "noarch" / "repodata.json").read_text())["packages.conda"] == {}


def test_a_tool_that_fails_is_named(layout: InterpreterLayout, tmp_path: Path) -> None:
    def failing(argv: Sequence[str], **_: object) -> Completed:
        return Completed(tuple(argv), 1, "", "some\nno such section\n")

    layout = replace(layout, executable=Path(sys.executable).resolve())  # an ELF file, so that tools are called
    with pytest.raises(InterpreterCaptureFailed, match="patchelf failed on a file of the interpreter: no such section"):
        capture_interpreter(tmp_path / "channel", run=failing, progress=Silent(), layout=layout)


@pytest.mark.parametrize("told", ["patchelf 0.17.2", "patchelf 0.14.3", "patchelf 0.190.1", "patchelf 1.0", ""])
def test_a_patchelf_that_writes_other_bytes_is_told(layout: InterpreterLayout, tmp_path: Path, told: str) -> None:
    def run(argv: Sequence[str], **_: object) -> Completed:
        return Completed(tuple(argv), 0, f"{told}\n" if "--version" in argv else "", "")

    layout = replace(layout, executable=Path(sys.executable).resolve())  # an ELF file, so that tools are called
    with pytest.raises(InterpreterCaptureFailed, match=r"writes other bytes than patchelf 0\.19") as raised:
        capture_interpreter(tmp_path / "channel", run=run, progress=Silent(), layout=layout)
    assert raised.value.hint is not None
    hinted = Requirement(raised.value.hint.split("'")[1])
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["build"]
    [declared] = [each for each in map(Requirement, extras) if each.name == "patchelf"]
    assert hinted.specifier == declared.specifier


def test_a_channel_that_cannot_be_written(layout: InterpreterLayout, tmp_path: Path) -> None:
    (tmp_path / "channel").touch()
    with pytest.raises(OutputError, match="cannot write the captured interpreter"):
        capture(tmp_path / "channel", layout)


def test_the_running_interpreter() -> None:
    layout = running_interpreter()
    assert layout.version == ".".join(map(str, sys.version_info[:3]))
    assert (layout.stdlib / "os.py").is_file()
    assert is_elf(layout.executable)
    major, minor = required_glibc([layout.executable])
    assert (2, 0) < (major, minor) < (3, 0)
