"""Which modules a value's pickle refers to, and which modules the source of a module imports."""

from __future__ import annotations

import ast
import dis
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle
from cloudpickle.cloudpickle import list_registry_pickle_by_value

from kbuild.errors import RecordingError
from kbuild.training.described import is_partitioned

if TYPE_CHECKING:
    from kbuild.training.pyfunc import KedroPipelineModel

COMPILED = (".so", ".pyd", ".dylib")
"""What names of modules, and of libraries, end in that are made for one Python and one processor."""


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


def find_model_modules(model: KedroPipelineModel) -> set[str]:
    """Modules that the pickled model and its loaded inputs refer to."""
    modules = find_pickled_modules(model)
    for name, value in model.loaded_inputs.items():
        # Parts are loaded when a node asks for them, and one at a time: together they need not fit into memory.
        parts = (load() for load in value.values()) if is_partitioned(value) else (value,)
        modules |= model.sources[name].modules.union(*map(find_pickled_modules, parts))
    return modules


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
        elif isinstance(value, FunctionType) and not _is_found_by_name(value):
            # It travels whole, with the globals that it uses: its module is not imported where it is loaded.
            self.modules |= set(_imports_of_code(value.__code__, value.__globals__.get("__package__") or ""))
        elif isinstance(value, BuiltinFunctionType) or (
            isinstance(value, type | FunctionType) and _is_found_by_name(value)
        ):
            self.modules.add(getattr(value, "__module__", None) or "builtins")
        elif any(kind.__module__ == "kedro.io.core" for kind in type(value).__mro__):
            raise _DatasetFound(type(value).__name__)


def _is_found_by_name(value: Any) -> bool:
    """Whether cloudpickle writes a class or function as its module and name; lambdas and inner ones it cannot."""
    name = value.__module__ or "builtins"
    if name == "__main__" or any(f"{name}.".startswith(f"{each}.") for each in list_registry_pickle_by_value()):
        return False
    found: Any = sys.modules.get(name)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value


def _imports_of_code(code: CodeType, package: str) -> Iterator[str]:
    steps = list(dis.get_instructions(code))
    for level, names, step in zip(steps, steps[1:], steps[2:], strict=False):
        if step.opname == "IMPORT_NAME":
            statement = ast.ImportFrom(module=step.argval or None, names=[], level=level.argval)
            base = absolute(statement, package)
            yield from (base, *(f"{base}.{each}" for each in names.argval or () if each != "*"))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _imports_of_code(inner, package)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportPlace:
    """Where a module is asked for: which module does, and the line of its file."""

    module: str
    source: Path
    line: int

    def __str__(self) -> str:
        """The file as seen from the folder that holds its top-level module."""
        depth = self.module.count(".") + (self.source.name == "__init__.py")
        return f"{'/'.join(self.source.parts[-depth - 1 :])}, line {self.line},"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachedModules:
    """Modules of local code that are imported, what they import from elsewhere (module names), and who asks first.

    ``asked`` lacks the modules that the start itself names.
    """

    own: frozenset[str]
    foreign: frozenset[str]
    asked: Mapping[str, ImportPlace]


def follow_imports(
    starts: Iterable[str],
    is_own: Callable[[str], bool],
    left_out: Mapping[str, Collection[Cut]] | None = None,
    *,
    at_once: bool = False,
) -> ReachedModules:
    """All modules that importing ``starts`` imports, read from their sources without running them.

    ``is_own(top)`` says whether the code of a top-level module travels with the model and has to be read.
    ``left_out`` are imports of modules that count as not written. Those for type checkers only are passed over; those
    inside functions count, since they run when asked; ``at_once`` only those that surely run with the module.
    """
    own: set[str] = set()
    foreign: set[str] = set()
    asked: dict[str, ImportPlace] = {}
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
                tree = without(read_tree(module, source), (left_out or {}).get(module, ()))
                tree = keep_imports(tree) if at_once else tree
                for imported, line in imports_of(tree, package_of(module, source)):
                    asked.setdefault(imported, ImportPlace(module=module, source=source, line=line))
                    todo.append(imported)
    return ReachedModules(own=frozenset(own), foreign=frozenset(foreign), asked=asked)


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
    if not origin or not Path(origin).exists():
        return None
    return source_beside(Path(origin)) or Path(origin)


def source_beside(compiled: Path) -> Path | None:
    """The ``.py`` file that a compiled module was made of, as mypyc and Cython leave it beside; None without one."""
    name = compiled.name.partition(".")[0].removesuffix("__mypyc")  # of x.py mypyc makes two libraries
    source = compiled.with_name(f"{name}.py")
    return source if compiled.suffix in COMPILED and source.is_file() else None


def read_tree(module: str, source: Path) -> ast.Module:
    """The syntax tree of a module's file; raises RecordingError when it is no Python."""
    try:
        return _parse(source, source.stat().st_mtime_ns)
    except SyntaxError as error:
        raise RecordingError(f"module {module} cannot be read: {error}") from error


@lru_cache(maxsize=512)
def _parse(source: Path, _changed: int) -> ast.Module:
    return ast.parse(source.read_bytes(), filename=source.name)


def package_of(module: str, source: Path) -> str:
    """What relative imports in a module start from."""
    return module if source.name == "__init__.py" else module.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """A top-level statement of a module by its place in the body, or one of the names that it imports."""

    statement: int
    alias: int | None = None


def without(tree: ast.Module, cuts: Collection[Cut]) -> ast.Module:
    """The tree less some statements and imported names."""
    if not cuts:
        return tree
    body = []
    for number, statement in enumerate(tree.body):
        gone = {cut.alias for cut in cuts if cut.statement == number}
        if None in gone:
            continue
        if gone and isinstance(statement, ast.Import | ast.ImportFrom):
            statement = keep_aliases(statement, [n for n in range(len(statement.names)) if n not in gone])
            if not statement.names:
                continue
        body.append(statement)
    return ast.Module(body=body, type_ignores=[])


def keep_imports(tree: ast.Module) -> ast.Module:
    """The imports that stand in a module's own body: under no condition, and in no function."""
    body = [each for each in tree.body if isinstance(each, ast.Import | ast.ImportFrom)]
    return ast.Module(body=list(body), type_ignores=[])


def keep_aliases(statement: ast.Import | ast.ImportFrom, kept: Iterable[int]) -> ast.Import | ast.ImportFrom:
    """The statement with some of its names, on the same lines."""
    names = [statement.names[number] for number in kept]
    if isinstance(statement, ast.Import):
        return ast.copy_location(ast.Import(names=names), statement)
    return ast.copy_location(ast.ImportFrom(module=statement.module, names=names, level=statement.level), statement)


def imports_of(node: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """The full names that the code below ``node`` imports, with their lines; of ``from a import b`` a and a.b."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = absolute(child, package)
            if base:
                yield base, child.lineno
                # Each name may be a submodule; what is none of them is found to have no file.
                yield from ((f"{base}.{alias.name}", child.lineno) for alias in child.names if alias.name != "*")
        elif isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield from imports_of(ast.Module(body=[other], type_ignores=[]), package)
        else:
            yield from imports_of(child, package)


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The full name of the module that a ``from`` import names."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def is_type_checking(test: ast.expr) -> bool:
    """Whether a condition is true for type checkers only."""
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"
