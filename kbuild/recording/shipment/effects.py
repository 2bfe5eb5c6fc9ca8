"""Whether importing a module does more than define its names, told from its source; in doubt it does.

Importing a module that only defines names may be put off without any answer being another one.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterable, Iterator

from kbuild.recording.shipment.tracing import absolute, is_type_checking

# Calls that make a value and change nothing else, by full name; all of Kedro's are such where pipelines are made.
_HARMLESS = {
    *("abc.abstractmethod", "collections.namedtuple", "contextlib.contextmanager", "dataclasses.dataclass"),
    *("dataclasses.field", "functools.cache", "functools.lru_cache", "functools.partial", "functools.wraps"),
    *(
        "importlib.metadata.version",
        "kbuild.pipeline_ml_factory",
        "logging.getLogger",
        "operator.attrgetter",
        "operator.itemgetter",
    ),
    *("os.environ.get", "os.getenv", "pathlib.Path", "re.compile", "types.MappingProxyType"),
    *("typing.NewType", "typing.TypeVar", "typing.cast", "typing.final", "typing.overload"),
    *("bool", "bytes", "classmethod", "dict", "enumerate", "float", "frozenset", "int", "len", "list", "max", "min"),
    *("property", "range", "reversed", "set", "sorted", "staticmethod", "str", "sum", "tuple", "zip"),
}
_HARMLESS_TOPS = {"kedro"}
# Bases whose classes do nothing when they are made, besides Kedro's and the exceptions.
_PLAIN_BASES = {
    *("object", "abc.ABC", "enum.Enum", "enum.IntEnum", "enum.StrEnum", "typing.Generic", "typing.NamedTuple"),
    *("typing.Protocol", "typing.TypedDict"),
}
# What is imported without being used is imported for what importing it does; of these that is nothing.
_QUIET_TOPS = {"kedro", "kbuild", "__future__"}


def find_effect(tree: ast.Module, package: str, is_own: Callable[[str], bool]) -> tuple[int, str] | None:
    """The line of the first thing that importing does besides defining names, and what it is; None without one.

    ``package`` is what relative imports start from. Modules for which ``is_own(top)`` holds are read by themselves.
    """
    return next(_Reader(tree, package, is_own).read(tree.body), None)


class _Reader:
    def __init__(self, tree: ast.Module, package: str, is_own: Callable[[str], bool]) -> None:
        self._package = package
        self._is_own = is_own
        self._names = dict(_bindings(tree, package))
        self._used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    def read(self, statements: Iterable[ast.stmt]) -> Iterator[tuple[int, str]]:
        for each in statements:
            yield from self._read_one(each)

    def _read_one(self, each: ast.stmt) -> Iterator[tuple[int, str]]:
        match each:
            case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.Assert():
                pass
            case ast.Import() | ast.ImportFrom():
                yield from self._read_import(each)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                arguments = each.args
                yield from self._values(each.decorator_list, calls=True)
                yield from self._values([*arguments.defaults, *(one for one in arguments.kw_defaults if one)])
            case ast.ClassDef():
                yield from self._values(each.decorator_list, calls=True)
                bases = [name for base in each.bases if not self._is_plain_base(name := self._name(base))]
                if bases or each.keywords:
                    yield each.lineno, f"makes a class from {', '.join(bases) or 'keywords'}"
                yield from self.read(each.body)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                changed = next((one for one in targets if not self._is_new(one, each)), None)
                if changed is not None:
                    yield each.lineno, f"changes {ast.unparse(changed)}"
                yield from self._values([each.value] if each.value is not None else [])
            case ast.If() if is_type_checking(each.test):
                yield from self.read(each.orelse)
            case ast.If():
                yield from self._values([each.test])
                yield from self.read([*each.body, *each.orelse])
            case ast.Try():
                caught = [one for handler in each.handlers for one in handler.body]
                yield from self.read([*each.body, *caught, *each.orelse, *each.finalbody])
            case ast.Raise():
                pass
            case ast.Expr(value=value):
                yield from self._values([value])
                yield each.lineno, f"runs {ast.unparse(value)[:60]}"
            case _:
                yield each.lineno, f"runs a statement of its own ({type(each).__name__.lower()})"

    def _read_import(self, each: ast.Import | ast.ImportFrom) -> Iterator[tuple[int, str]]:
        for alias in each.names:
            name = alias.name if isinstance(each, ast.Import) else absolute(each, self._package)
            top = name.partition(".")[0]
            bound = alias.asname or alias.name.partition(".")[0]
            if top in _QUIET_TOPS or top in sys.stdlib_module_names or self._is_own(top) or bound in self._used:
                continue
            yield each.lineno, f"imports {name} without using it"

    def _values(self, values: Iterable[ast.expr], *, calls: bool = False) -> Iterator[tuple[int, str]]:
        """``calls``: the values are decorators, which are called themselves."""
        for value in values:
            called = [value] if calls and not isinstance(value, ast.Call) else []
            called += [node.func for node in _walk_now(value) if isinstance(node, ast.Call)]
            for function in called:
                name = self._name(function)
                accessor = calls and name.rpartition(".")[2] in ("setter", "getter", "deleter")
                if name not in _HARMLESS and name.partition(".")[0] not in _HARMLESS_TOPS and not accessor:
                    yield value.lineno, f"calls {ast.unparse(function)}"

    def _is_new(self, target: ast.expr, statement: ast.stmt) -> bool:
        """Whether a target is a name of this module alone, and not a part of something that others see."""
        if isinstance(target, ast.Tuple | ast.List):
            return all(self._is_new(each, statement) for each in target.elts)
        if not isinstance(target, ast.Name):
            return False
        # An imported list that is added to is changed for everybody.
        return not (isinstance(statement, ast.AugAssign) and target.id in self._names)

    def _is_plain_base(self, name: str) -> bool:
        kind = getattr(builtins, name, None)
        return (
            name in _PLAIN_BASES
            or name.partition(".")[0] in _HARMLESS_TOPS
            or (isinstance(kind, type) and issubclass(kind, BaseException))
        )

    def _name(self, node: ast.expr) -> str:
        """The full name of what an expression names; of a subscript what is subscripted; its text for any other."""
        if isinstance(node, ast.Subscript):
            return self._name(node.value)
        if isinstance(node, ast.Attribute):
            return f"{self._name(node.value)}.{node.attr}"
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Call):
            # What a harmless call gave is the same kind of thing.
            return self._name(node.func)
        return ast.unparse(node)


def _walk_now(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it that is evaluated with it, so nothing inside a lambda but its defaults."""
    yield node
    if isinstance(node, ast.Lambda):
        below: list[ast.AST] = [*node.args.defaults, *(one for one in node.args.kw_defaults if one)]
    else:
        below = list(ast.iter_child_nodes(node))
    for child in below:
        yield from _walk_now(child)


def _bindings(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """Each imported local name with the full name that it stands for; a name that is also assigned is none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{absolute(node, package)}.{alias.name}"
