from __future__ import annotations

from pathlib import Path

from kbuild.cache.tree import reset_directory_times, tree_digest
from kbuild.image.packages.trimming import link_trimmed

SITE = "opt/env/lib/python3.11/site-packages"
FILES = {
    f"{SITE}/a/__init__.py": "",
    f"{SITE}/a/tests/__init__.py": "",
    f"{SITE}/a/tests/__pycache__/__init__.cpython-311.pyc": "",
    f"{SITE}/a/include/a/a.h": "int a;",
    f"{SITE}/a-1.dist-info/METADATA": "Name: a\n",
    "opt/env/bin/tests": "#!",
}
RECORD = (
    'a/__init__.py,sha256=x,0\na/include/a/a.h,sha256=y,6\n"a/tests/__init__.py",,\n'
    "../../../bin/tests,,\na-1.dist-info/METADATA,sha256=z,8\na-1.dist-info/RECORD,,\n"
)


def lay(root: Path) -> Path:
    for path, text in {**FILES, f"{SITE}/a-1.dist-info/RECORD": RECORD}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def paths(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_what_is_left_out_is_neither_there_nor_named(tmp_path: Path) -> None:
    source, target = lay(tmp_path / "source"), tmp_path / "target"
    before = tree_digest(source, times=False)
    owners: dict[str, str] = {}
    link_trimmed(source, target, owners, "a 1", site=SITE, patterns=("*.h", "test/", "tests/"))
    gone = {path for path in paths(source) if "/a/tests" in path or "/include" in path}
    assert len(gone) == 7
    assert paths(target) == paths(source) - gone
    assert (target / SITE / "a-1.dist-info/RECORD").read_text() == (
        "a/__init__.py,sha256=x,0\n../../../bin/tests,,\na-1.dist-info/METADATA,sha256=z,8\na-1.dist-info/RECORD,,\n"
    )
    assert owners[f"{SITE}/a-1.dist-info/RECORD"] == "a 1"
    assert tree_digest(source, times=False) == before


def test_a_record_among_test_data_goes_and_a_row_of_another_scheme_too(tmp_path: Path) -> None:
    source, target = lay(tmp_path / "source"), tmp_path / "target"
    data = source / SITE / "a/tests/data/b-1.dist-info/RECORD"
    data.parent.mkdir(parents=True)
    data.write_text("b.py,,\n")
    record = source / SITE / "a-1.dist-info/RECORD"
    record.write_text(RECORD.replace('"a/tests/', '"./a/tests/'))
    link_trimmed(source, target, {}, "a 1", site=SITE, patterns=("tests/",))
    assert not (target / SITE / "a/tests").exists()
    assert "tests/__init__" not in (target / SITE / "a-1.dist-info/RECORD").read_text()


def test_where_nothing_is_left_out_the_tree_is_the_same(tmp_path: Path) -> None:
    source = lay(tmp_path / "source")
    for name, patterns in (("one", ()), ("other", ("*.pyi", "a/none.so"))):
        link_trimmed(source, tmp_path / name, {}, "a 1", site=SITE, patterns=patterns)
        assert tree_digest(tmp_path / name, times=False) == tree_digest(source, times=False)
        record = f"{SITE}/a-1.dist-info/RECORD"
        assert (tmp_path / name / record).samefile(source / record)


def test_two_trees_are_the_same_whenever_they_are_made(tmp_path: Path) -> None:
    source = lay(tmp_path / "source")
    for path in source.rglob("*"):
        if path.is_file():
            path.touch()
    for name in ("one", "other"):
        link_trimmed(source, tmp_path / name, {}, "a 1", site=SITE, patterns=("tests/",))
        reset_directory_times(tmp_path / name)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "other")
    assert (tmp_path / "one" / SITE / "a-1.dist-info/RECORD").stat().st_mtime == 0
