from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.plan.left_out import NOTHING, LeftOut, find_folders, select_files

PATHS = {
    "a/__init__.py", "a/core.h", "a/core.pyi", "a/tests/__init__.py", "a/tests/__pycache__/__init__.cpython-311.pyc",
    "a/tests/data/x.csv", "a/tests/sub/tests/test_b.py", "a/data/test/rows.csv", "a/testing/helper.py", "a/test.py",
    "a-1.dist-info/RECORD", "a-1.dist-info/tests/x.py", "a-1.dist-info/licenses/zlib.h", "a.libs/libz.so.1",
}  # fmt: skip
NAMES = st.sampled_from(["a", "b", "test", "tests", "x.py", "y.h", "z.pyi", "a-1.dist-info", "__init__.py"])
TREES = st.frozensets(st.lists(NAMES, min_size=1, max_size=5).map("/".join))
PATTERNS = st.frozensets(
    st.sampled_from(["tests/", "test/", "*.h", "*.pyi", "a/x.py", "!a/tests/", "!*.h", "!b/test/"]), max_size=6
)


def test_folders_of_tests_go_with_their_data_but_no_other_folder_of_that_name() -> None:
    assert select_files(PATHS, ["tests/", "test/"]) == {
        "a/tests/__init__.py", "a/tests/__pycache__/__init__.cpython-311.pyc", "a/tests/data/x.csv",
        "a/tests/sub/tests/test_b.py",
    }  # fmt: skip
    assert find_folders(PATHS - {"a/tests/__init__.py"}, ["tests"]) == {"a/tests/sub/tests", "a-1.dist-info/tests"}


def test_files_go_by_their_ends_and_by_name() -> None:
    assert select_files(PATHS, ["*.h", "a.libs/libz.so.1"]) == {"a/core.h", "a.libs/libz.so.1"}


def test_what_stays_all_the_same() -> None:
    assert select_files(PATHS, ["*.h", "*.pyi", "!*.h"]) == {"a/core.pyi"}
    # All of it, though another pattern names some of it.
    assert select_files(PATHS, ["tests/", "*.csv", "!a/tests/"]) == {"a/data/test/rows.csv"}


@given(TREES, PATTERNS)
def test_only_what_is_there_goes_and_never_metadata(paths: frozenset[str], patterns: frozenset[str]) -> None:
    gone = select_files(paths, patterns)
    assert gone == select_files(sorted(paths, reverse=True), sorted(patterns)) <= paths
    assert not any(path.startswith("a-1.dist-info") for path in gone)
    assert not any(path.startswith("a/tests/") for path in gone) or "!a/tests/" not in patterns or (
        "a/tests" not in find_folders(paths, ["tests"])
    )  # fmt: skip
    assert select_files(paths, []) == frozenset()


@given(TREES)
def test_without_patterns_that_keep_every_pattern_takes_more(paths: frozenset[str]) -> None:
    assert select_files(paths, ["*.h"]) | select_files(paths, ["tests/"]) == select_files(paths, ["*.h", "tests/"])


def test_the_patterns_of_a_package_are_those_of_all_and_its_own() -> None:
    left_out = LeftOut(packages=("b",), files={"*": ("tests/", "*.h"), "a-b": ("!*.h",)})
    assert left_out.patterns("A_b") == ("!*.h", "*.h", "tests/")
    assert left_out.patterns("c") == ("*.h", "tests/")
    assert left_out.files_json() == '{"*":["*.h","tests/"],"a-b":["!*.h"]}'
    assert left_out and not NOTHING
    assert (NOTHING.patterns("c"), NOTHING.files_json()) == ((), None)


@given(st.dictionaries(st.text(), st.frozensets(st.text())), st.frozensets(st.text()))
def test_it_is_read_as_it_was_written(files: dict[str, frozenset[str]], packages: frozenset[str]) -> None:
    left_out = LeftOut(packages=tuple(packages), files={name: tuple(each) for name, each in files.items()})
    again = LeftOut.from_json(left_out.to_json())
    assert again.to_json() == left_out.to_json()


@pytest.mark.parametrize(
    "value", [[], {}, {"packages": []}, {"packages": [1], "files": {}}, {"packages": [], "files": {"a": "tests/"}}]
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not "):
        LeftOut.from_json(value)
