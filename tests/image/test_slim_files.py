from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from locked import package

from kbuild.environment.captured.elf import linked_names
from kbuild.image.slim.package_files import (
    LARGE,
    Library,
    choose_files,
    choose_libraries,
    choose_patterns,
    measure_files,
)
from kbuild.plan.left_out import EVERY, LeftOut
from kbuild.plan.split import WheelFacts

FLIGHT, MODULE = "arrow/libflight.so.25", "arrow/_flight.cpython-311-x86_64-linux-gnu.so"


def facts(*paths: str) -> WheelFacts:
    return WheelFacts(size=1, paths=frozenset(paths))


def library(size: int = LARGE, *needs: str, soname: str | None = None, idle: bool = True) -> Library:
    return Library(size=size, needs=frozenset(needs), soname=soname, idle=idle)


ARROW = {
    "arrow/lib.abi3.so": library(9, "libarrow.so.25", idle=False),
    "arrow/libarrow.so.25": library(idle=False),
    FLIGHT: library(LARGE, "libarrow.so.25"),
    MODULE: library(9, "libflight.so.25", "libpython_flight.so.25"),
    "arrow/libpython_flight.so.25": library(9, "libflight.so.25", soname="libpython_flight.so.25"),
    "arrow/libpython_flight.so": library(9, "libflight.so.25", soname="libpython_flight.so.25"),
    "arrow/_orc.cpython-311-x86_64-linux-gnu.so": library(9, "libarrow.so.25"),
    "arrow/libplugin.so": library(),
}


def test_a_large_library_goes_with_all_that_only_it_serves() -> None:
    # A small module stays, and so does what might be loaded by its name.
    assert choose_libraries(ARROW) == {
        FLIGHT, MODULE, "arrow/libpython_flight.so.25", "arrow/libpython_flight.so",
    }  # fmt: skip


def test_what_something_else_needs_stays() -> None:
    for other in (library(9, "libflight.so.25", idle=False), library(9, "libpython_flight.so.25", idle=False)):
        assert choose_libraries({**ARROW, "other/x.abi3.so": other}) == set()
    # Not for a small module of their own kind, which nobody imported either.
    more = {**ARROW, "arrow/_more.abi3.so": library(9, "libflight.so.25")}
    assert choose_libraries(more) == choose_libraries(ARROW) | {"arrow/_more.abi3.so"}


def test_what_is_small_stays() -> None:
    assert choose_libraries({**ARROW, FLIGHT: library(LARGE - 1, "libarrow.so.25")}) == set()


def test_a_second_name_of_a_library_is_for_linkers() -> None:
    named = {"a/libz.so": library(soname="libz.so.1"), "a/libz.so.1": library(soname="libz.so.1", idle=False)}
    assert choose_libraries(named) == {"a/libz.so"}
    assert choose_libraries({"a/libz.so": library(soname="libz.so.1")}) == set()


NAMES = [f"{name}.{end}" for name in "abcd" for end in ("so", "so.1", "abi3.so")]
SETS = st.dictionaries(
    st.sampled_from(NAMES).map("p/{}".format),
    st.builds(
        Library,
        size=st.sampled_from([1, LARGE]),
        needs=st.frozensets(st.sampled_from(NAMES), max_size=3),
        soname=st.none() | st.sampled_from(NAMES),
        idle=st.booleans(),
    ),
)


@given(SETS)
def test_nothing_that_stays_needs_what_goes_and_only_the_idle_goes(libraries: dict[str, Library]) -> None:
    gone = choose_libraries(libraries)
    assert all(libraries[path].idle for path in gone)
    needed = {name for path, each in libraries.items() if path not in gone for name in each.needs}
    assert not {path.removeprefix("p/") for path in gone} & needed
    assert not gone or any(libraries[path].size >= LARGE for path in gone)


def test_what_was_read_of_a_kind_keeps_that_kind() -> None:
    quiet, read = package("quiet"), package("Read_It")
    chosen = choose_patterns(
        {
            quiet: facts("site/quiet/tests/test_a.py", "site/quiet/a.pyi"),
            read: facts("site/r/tests/__init__.py", "site/r/x/tests/__init__.py", "site/r/a.pyi", "site/r/a.h"),
        },
        {"site/r/tests/__init__.py", "site/r/a.pyi"},
    )
    assert set(chosen) == {EVERY, "read-it"}
    assert chosen["read-it"] == ("!*.pyi", "!r/tests/")
    assert {"test/", "tests/", "*.pyi", "*.h", "*.pyx"} <= {*chosen[EVERY]}


def test_stubs_that_are_read_at_run_time_stay() -> None:
    image = package("image", "numpy", "lazy_loader")
    assert choose_patterns({image: facts("site/image/__init__.pyi")}, ())["image"] == ("!*.pyi",)


def test_files_are_chosen_from_a_folder_and_counted(tmp_path: Path) -> None:
    content = Path(sys.executable).resolve().read_bytes()
    paths = ("m/_big.abi3.so", "m/_damaged.abi3.so", "m/_used.abi3.so", "m/a.py", "m/tests/a.py")
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content.ljust(LARGE, b"\0") if path.endswith("so") else b"123")
    (tmp_path / "m/_damaged.abi3.so").write_bytes(b"\x7fELF")
    found = {package("mine"): facts(*(f"site/{path}" for path in paths), "bin/mine")}
    chosen = choose_files(found, {"site/m/_used.abi3.so"}, frozenset(), tmp_path)
    assert chosen["mine"] == ("m/_big.abi3.so",)
    measured = measure_files(found, LeftOut(files=chosen), tmp_path)
    assert (measured.count, measured.size) == (2, (tmp_path / "m/_big.abi3.so").stat().st_size + 3)
    assert measured.named == ("m/_big.abi3.so",)
    # Bytecode that a wheel brings is not installed, so there is nothing of it to measure.
    shipped = {package("m"): facts("site/m/tests/a.py", "site/m/tests/__pycache__/a.cpython-310.pyc")}
    (tmp_path / "m/tests").mkdir(exist_ok=True)
    (tmp_path / "m/tests/a.py").write_text("x = 1")
    assert measure_files(shipped, LeftOut(files={EVERY: ("tests/",)}), tmp_path).count == 1
    # Of what the model asks for no library goes, nor of what is there only because something else asks for it.
    assert "mine" not in choose_files(found, {"site/m/_used.abi3.so"}, frozenset(found), tmp_path)
    assert "mine" not in choose_files(found, (), frozenset(), tmp_path)


def test_what_an_elf_file_needs(tmp_path: Path) -> None:
    needed, soname = linked_names(Path(sys.executable).resolve())
    assert ("libc.so.6" in needed, soname) == (True, None)
    (tmp_path / "damaged").write_bytes(b"\x7fELF")
    assert linked_names(tmp_path / "damaged") == (frozenset(), None)
