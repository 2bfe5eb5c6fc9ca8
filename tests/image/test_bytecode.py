from __future__ import annotations

import importlib.util
import json
import marshal
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kbuild.digest import Digest
from kbuild.errors import BuildFailed
from kbuild.image.packages.bytecode import Compiler, bytecode_recipe, compile_trees, find_compiler
from kbuild.image.packages.bytecode_check import check_bytecode
from kbuild.platform import Platform, host_platform
from kbuild.process import Completed, run

HERE = Compiler(python=Path(sys.executable), identity=Digest("0" * 64))
RUNNING = ".".join(map(str, sys.version_info[:3]))
BUILD = """
import pathlib, sys
from kbuild.digest import Digest
from kbuild.image.packages.bytecode import Compiler, compile_trees
from kbuild.process import run

here = Compiler(python=pathlib.Path(sys.executable), identity=Digest("0" * 64))
compile_trees([pathlib.Path(sys.argv[1])], "/opt/env/lib", here, run=run, jobs=2)
"""
SOURCES = {
    "a.py": "def f(x):\n    'doc'\n    return [x.append, {'k': (1, 'append')}, x in {'b', 'a', 'c'}]\n",
    "b.py": "import os\nk = 'append'\nclass C:\n    def append(self, sep=os): return sep\n",
    "pkg/__init__.py": "",
    "pkg/template.py": "class {{ name }}:\n",
    "pkg/zero.py": "x = 1\0\n",
}


def write(root: Path) -> Path:
    for name, text in SOURCES.items():
        path = root / "opt/env/lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "opt/env/bin").mkdir()
    (root / "opt/env/bin/tool.py").write_text("x = 1")
    return root


def bytecode(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.pyc")}


def test_bytes_depend_neither_on_the_place_nor_on_the_number_of_processes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1"), write(tmp_path / "another/place")
    assert compile_trees([one], "/opt/env/lib", HERE, run=run, jobs=1) == compile_trees(
        [two], "/opt/env/lib", HERE, run=run, jobs=3
    )
    assert bytecode(one) == bytecode(two)
    assert len(bytecode(one)) == 3


def test_bytes_do_not_depend_on_what_is_compiled_together(tmp_path: Path) -> None:
    """CPython has one object for each string of one Latin-1 character, and a name makes it an interned one."""
    sources = {
        "one": {"a.py": "\u00f8 = 1\n", "b.py": "x = ['\u00f8', ' ']\n"},
        "two": {"b.py": "x = ['\u00f8', ' ']\n"},
    }
    for name, files in sources.items():
        for path, text in files.items():
            place = tmp_path / name / "opt/env/lib" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        compile_trees([tmp_path / name], "/opt/env/lib", HERE, run=run)
    (only,) = bytecode(tmp_path / "two").values()
    assert only in bytecode(tmp_path / "one").values()


def test_what_several_packages_bring_is_compiled_once_to_the_same_bytes(tmp_path: Path) -> None:
    roots = [write(tmp_path / name) for name in ("alone", "one", "two", "three")]
    for root in roots[2:]:
        (root / "opt/env/lib/b.py").write_text("x = 'another'\n")
        (root / "opt/env/lib/b.more.py").write_text("x = 'no module'\n")
    (roots[3] / "opt/env/lib/b.more.py").unlink()
    compile_trees([roots[0]], "/opt/env/lib", HERE, run=run)
    orders: list[str] = []

    def counted(argv: Sequence[str], **more: Any) -> Completed:
        orders.extend(shown for _, shown in json.loads(more["stdin"])["files"])
        return run(argv, **more)

    skipped = compile_trees(roots[1:], "/opt/env/lib", HERE, run=counted, jobs=2)
    assert skipped == ("/opt/env/lib/pkg/template.py", "/opt/env/lib/pkg/zero.py")
    assert orders.count("/opt/env/lib/a.py") == 1
    assert orders.count("/opt/env/lib/b.py") == 3  # of the first, and of those that are others than it
    assert bytecode(roots[1]) == bytecode(roots[0])
    for root in roots[2:]:
        again = tmp_path / "again" / root.name
        shutil.copytree(root, again, ignore=shutil.ignore_patterns("__pycache__"))
        compile_trees([again], "/opt/env/lib", HERE, run=run)
        assert bytecode(again) == bytecode(root)


def test_the_tests_of_packages_get_none(tmp_path: Path) -> None:
    site = tmp_path / "opt/env/lib/python3.11/site-packages"
    compiled = ("tests.py", "tests/conf.py", "pandas/frame.py", "pandas/testing/help.py", "pandas/tests_of/a.py")
    without = ("pandas/tests/test_frame.py", "scipy/stats/tests/deep/data.py")
    for name in (*compiled, *without):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("x = 1\n")
    compile_trees([tmp_path], "/opt/env/lib", HERE, run=run)
    assert {
        path for path in (*compiled, *without) if Path(importlib.util.cache_from_source(str(site / path))).exists()
    } == set(compiled)
    assert check_bytecode([tmp_path], ["/opt/env/lib"], sys.implementation.cache_tag or "", HERE, run=run) == ()


def test_invalid_sources_get_none_and_are_named(tmp_path: Path) -> None:
    skipped = compile_trees([write(tmp_path)], "/opt/env/lib", HERE, run=run)
    assert skipped == ("/opt/env/lib/pkg/template.py", "/opt/env/lib/pkg/zero.py")


def test_a_file_is_unchecked_hashed_and_names_its_place_in_the_image(tmp_path: Path) -> None:
    compile_trees([write(tmp_path)], "/opt/env/lib", HERE, run=run)
    source = tmp_path / "opt/env/lib/a.py"
    data = Path(importlib.util.cache_from_source(str(source))).read_bytes()
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(data[4:8], "little") == 0b01
    assert data[8:16] == importlib.util.source_hash(source.read_bytes())
    code = marshal.loads(data[16:])  # noqa: S302 written two lines above
    assert code.co_filename == "/opt/env/lib/a.py"


def test_compilers_end_with_a_build_that_is_killed(tmp_path: Path) -> None:
    library = tmp_path / "opt/env/lib"
    library.mkdir(parents=True)
    text = "".join(f"def f{n}(a, b=({n}, 'x')):\n    return [a.x{n}, {{b: a}}, a in b]\n" for n in range(1500))
    for number in range(200):
        (library / f"m{number}.py").write_text(text)
    with subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path)]) as build:
        deadline = time.monotonic() + 30
        while not bytecode(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        build.kill()
    # Each ends after the file that it has begun, however long that takes beside other work.
    made, stays = len(bytecode(tmp_path)), 0
    while stays < 30 and time.monotonic() < deadline + 30:
        time.sleep(0.1)
        found = len(bytecode(tmp_path))
        made, stays = found, stays + 1 if found == made else 0
    assert 0 < made < 200 and stays == 30


def test_an_interpreter_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    def broken(argv: object, **_: object) -> Completed:
        return Completed((), 1, "", "x\n/lib/libc.so.6: version `GLIBC_2.99' not found\n")

    with pytest.raises(BuildFailed, match=r"GLIBC_2\.99"):
        compile_trees([write(tmp_path)], "/opt/env/lib", HERE, run=broken)


def test_for_another_platform_the_running_interpreter_compiles_if_it_is_of_the_same_minor_version(
    tmp_path: Path,
) -> None:
    other = next(p for p in map(Platform.parse, ("linux/amd64", "linux/arm64")) if p != host_platform())
    sister = f"{sys.version_info[0]}.{sys.version_info[1]}.99"
    assert bytecode_recipe("2.0.0", host_platform()) == bytecode_recipe(RUNNING, other)
    assert bytecode_recipe("2.0.0", other) is None
    assert find_compiler(tmp_path, "/opt/env", "2.0.0", other) is None
    for version in (RUNNING, sister):
        found = find_compiler(tmp_path, "/opt/env", version, other)
        assert found is not None
        assert found.python == Path(sys.executable)
    # Another patch release may compile to other bytes: the recipe says which one it was.
    assert str(bytecode_recipe(sister, other)).endswith(f" {RUNNING}")
