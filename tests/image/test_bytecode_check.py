from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kbuild.digest import Digest
from kbuild.errors import BuildFailed, BytecodeMissing
from kbuild.image.packages.bytecode import Compiler, compile_trees
from kbuild.image.packages.bytecode_check import check_bytecode
from kbuild.process import Completed, run

HERE = Compiler(python=Path(sys.executable), identity=Digest("0" * 64))
TAG = sys.implementation.cache_tag or ""
FOLDERS = ("/opt/env/lib", "/opt/model")


def write(root: Path) -> Path:
    for name, text in {
        "a.py": "x = 1",
        "pkg/b.py": "y = 2",
        "pkg/template.py": "class {{ name }}:",
        "n.txt": "",
    }.items():
        path = root / "opt/env/lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "opt/env/tool.py").write_text("not looked at: nothing imports it")
    return root


def check(*trees: Path) -> tuple[str, ...]:
    return check_bytecode(trees, FOLDERS, TAG, HERE, run=run)


def test_a_compiled_tree_passes_and_what_is_no_python_is_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    compile_trees([root], "/opt/env/lib", HERE, run=run)
    assert check(root) == ("/opt/env/lib/pkg/template.py",)
    assert check(tmp_path / "nowhere") == ()


def test_what_is_set_for_the_users_own_python_plays_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path)
    compile_trees([root], "/opt/env/lib", HERE, run=run)
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    assert check(root) == ("/opt/env/lib/pkg/template.py",)


def test_one_file_without_bytecode_fails_the_build_and_is_named(tmp_path: Path) -> None:
    root = write(tmp_path)
    compile_trees([root], "/opt/env/lib", HERE, run=run)
    next(root.rglob("b.*.pyc")).unlink()
    with pytest.raises(BytecodeMissing, match=r"^no bytecode for /opt/env/lib/pkg/b\.py$"):
        check(root)


def test_bytecode_of_another_interpreter_is_none(tmp_path: Path) -> None:
    root = write(tmp_path)
    compile_trees([root], "/opt/env/lib", HERE, run=run)
    with pytest.raises(BytecodeMissing, match=r"a\.py, /opt/env/lib/pkg/b\.py"):
        check_bytecode([root], FOLDERS, "cpython-27", HERE, run=run)


def test_many_are_not_all_named(tmp_path: Path) -> None:
    folder = tmp_path / "opt/model/code"
    folder.mkdir(parents=True)
    for number in range(9):
        (folder / f"m{number}.py").write_text("")
    with pytest.raises(BytecodeMissing, match=r"m4\.py and 4 more$"):
        check(tmp_path)


def test_an_interpreter_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    def broken(argv: object, **_: object) -> Completed:
        return Completed((), 1, "", "version `GLIBC_2.99' not found\n")

    with pytest.raises(BuildFailed, match=r"GLIBC_2\.99"):
        check_bytecode([write(tmp_path)], FOLDERS, TAG, HERE, run=broken)
