"""The house stays one that somebody finds a way in: small rooms, short files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kbuild

ROOT = Path(kbuild.__file__).parent
PACKAGES = sorted(path.parent for path in ROOT.rglob("__init__.py"))
# One class a kind of failure, read from the top as a table; one file a command.
LONG, WIDE = {"errors.py"}, {"cli"}
LINES, MODULES = 300, 15


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in ROOT.rglob("*.py")
    }
    assert len(lengths) > 300
    assert {name: lines for name, lines in lengths.items() if lines > LINES and name not in LONG} == {}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_package_has_more_than_15_modules(package: Path) -> None:
    modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MODULES or package.relative_to(ROOT).as_posix() in WIDE, modules


def test_a_class_has_a_name_of_its_own() -> None:
    """One name, one meaning: whoever reads ``Finding`` or ``Session`` need not look where it was imported from."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert len(found) > 300
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
