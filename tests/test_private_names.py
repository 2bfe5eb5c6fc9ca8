"""What is used of other packages without their promise is on the page of private names, and is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.version import Version

KBUILD = Path(__file__).parent.parent / "kbuild"
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \|", re.MULTILINE)
# Documented, though they begin with a line.
DOCUMENTED = {"_exit", "_xoptions", "_replace", "_asdict", "_fields"}
# Older ones of them have less; nothing of kbuild breaks by it.
SINCE = {"kedro.validation.": ("kedro", "1.3")}

LISTED = {
    name: {each.strip("` ") for each in files.split(",")}
    for name, files, _ in ROW.findall((KBUILD / "docs/private-names.md").read_text("utf-8"))
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def defined(tree: ast.Module) -> Iterator[str]:
    """Names that a module makes itself: by def, class or assignment, of itself or of its objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id


def used(tree: ast.Module, own: set[str], here: set[str] | None = None) -> Iterator[str]:
    """Private names that a module uses: whole names of what it imports, else the last part alone."""
    here = set(defined(tree)) if here is None else here
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] != "kbuild":
            whole = [f"{node.module}.{each.name}" for each in node.names]
            yield from (name for name in whole if any(map(is_private, name.split("."))))
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names if any(map(is_private, each.name.split("."))))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            foreign = node.attr not in here if of_itself else node.attr not in own
            inherited = isinstance(node.value, ast.Call) and _is_named(node.value.func, "super")
            if foreign or inherited:
                yield node.attr
        elif isinstance(node, ast.Call) and _is_named(node.func, "getattr", "setattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value) and name.value not in here:
                yield name.value


def _is_named(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def test_every_private_name_in_the_source_is_on_the_page() -> None:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in KBUILD.rglob("*.py")}
    here = {path: set(defined(tree)) for path, tree in trees.items()}
    own = set().union(*here.values())
    found = {
        (path.relative_to(KBUILD).as_posix(), name)
        for path, tree in trees.items()
        for name in used(tree, own, here[path])
    }
    assert len(found) > 30
    listed = {(file, name) for name, files in LISTED.items() for file in files}
    # An attribute is seen by its own name alone, and a module may be imported to reach what is in it.
    listed |= {(file, part) for file, name in listed for part in (name.rpartition(".")[0], name.rpartition(".")[2])}
    assert sorted(found - listed) == []


@pytest.mark.parametrize("name", LISTED)
def test_every_name_on_the_page_is_used_where_it_says_and_is_there(name: str) -> None:
    last = name.rpartition(".")[2]
    for file in LISTED[name]:
        assert re.search(rf"\b{last}\b", (KBUILD / file).read_text("utf-8")), file
    for prefix, (package, first) in SINCE.items():
        if name.startswith(prefix) and Version(version(package)) < Version(first):
            pytest.skip(f"{package} has it since {first}, and kbuild does without")
    if name.partition(".")[0] == "pyspark" and find_spec("pyspark") is None:
        pytest.skip("PySpark, an extra, is not installed")
    path = source_of(name)
    assert last in (path.stem, path.parent.name) or re.search(rf"\b{last}\b", path.read_text("utf-8"))


def source_of(name: str) -> Path:
    """The module that a name is or is in, which is not imported: that takes seconds, and warns."""
    first, *parts = name.split(".")
    found = find_spec(first)
    assert found is not None, f"there is no {first}"
    assert found.origin is not None, first
    for end in range(len(parts), 0, -1):
        place = Path(found.origin).parent.joinpath(*parts[:end])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                # What is left is a name in the module, or a class there and a name of its objects.
                assert end >= len(parts) - 2, f"{name}: {file} is all that is there"
                return file
    return Path(found.origin)


def test_a_name_that_is_not_on_the_page_is_seen() -> None:
    tree = ast.parse(
        "from other._inside import thing\nimport other._more\n"
        "def f(x):\n    return x._secret + getattr(x, '_hidden', 1) + x._mine + x._replace()\n"
        "class C(Base):\n    def g(self):\n        self._mine = 1\n        return self._theirs + super()._mine\n"
    )
    seen = list(used(tree, own={"_mine"}))
    assert sorted(seen) == ["_hidden", "_mine", "_secret", "_theirs", "other._inside.thing", "other._more"]
