"""Which modules a value's pickle refers to, and which modules the source of a module imports."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from kbuild.errors import RecordingError


def find_pickled_modules(value: Any) -> set[str]:
    """Names of the modules whose classes and functions a value is made of; those of ``__main__`` travel by value.

    Raises RecordingError for a value that holds a Kedro dataset, which would carry its paths and credentials along.
    A value that cannot be pickled gives the modules seen until then: its dataset type knows how to store it.
    """
    tracer = _Tracer()
    try:
        tracer.dump(value)
    except _DatasetFound as found:
        raise RecordingError(f"a Kedro dataset ({found}) is part of what would be pickled into the model") from None
    except Exception:  # noqa: BLE001 - the objects' own __reduce__ and __getstate__ may raise anything
        tracer.modules.add(type(value).__module__)
    return tracer.modules - {"builtins", "__main__"}


class _DatasetFound(Exception):
    pass


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


class _Tracer(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that keeps nothing but the modules it meets; big buffers are not even copied."""

    def __init__(self) -> None:
        super().__init__(_Nowhere(), protocol=5, buffer_callback=lambda buffer: None)
        self.modules: set[str] = set()

    def persistent_id(self, value: Any) -> None:
        if isinstance(value, ModuleType):
            self.modules.add(value.__name__)
        elif isinstance(value, type | FunctionType | BuiltinFunctionType):
            self.modules.add(getattr(value, "__module__", None) or "builtins")
        elif any(kind.__module__ == "kedro.io.core" for kind in type(value).__mro__):
            raise _DatasetFound(type(value).__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """Modules of local code that are imported, and what they import from elsewhere (module names)."""

    own: frozenset[str]
    foreign: frozenset[str]


def follow_imports(starts: Iterable[str], is_own: Any) -> Reached:
    """All modules that importing ``starts`` imports, read from their sources without running them.

    ``is_own(top)`` says whether the code of a top-level module travels with the model and has to be read.
    Imports for type checkers only are passed over; those inside functions count, since they run when asked.
    """
    own: set[str] = set()
    foreign: set[str] = set()
    todo = list(starts)
    while todo:
        name = todo.pop()
        if not is_own(name.partition(".")[0]):
            foreign.add(name)
            continue
        # Importing a.b.c runs a, a.b and a.b.c.
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = ".".join(parts[:end])
            if module in own:
                continue
            source = find_source(module)
            if source is None:
                break  # what follows is a function or class, not a module
            own.add(module)
            if source.suffix == ".py":
                todo += _read_imports(module, source)
    return Reached(own=frozenset(own), foreign=frozenset(foreign))


def find_source(module: str) -> Path | None:
    """The file of a module, by the import system; None when there is no such module, or it has no file."""
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        origin = spec.origin
        if origin is None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    return Path(origin) if origin and Path(origin).exists() else None


def _read_imports(module: str, source: Path) -> list[str]:
    try:
        tree = ast.parse(source.read_bytes(), filename=source.name)
    except SyntaxError as error:
        raise RecordingError(f"module {module} cannot be read: {error}") from error
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    return list(_imports_of(tree, package))


def _imports_of(node: ast.AST, package: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, package)
            if base:
                yield base
                # Each name may be a submodule; what is none of them is found to have no file.
                yield from (f"{base}.{alias.name}" for alias in child.names if alias.name != "*")
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield from _imports_of(ast.Module(body=[other], type_ignores=[]), package)
        else:
            yield from _imports_of(child, package)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"
