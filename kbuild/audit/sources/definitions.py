"""What modules of Python define and pass on, by the grammar of their sources; nothing is imported.

Grammar: Python's docs, "The import statement" (``from … import``, relative names, ``*`` and ``__all__``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

Read = Callable[[str], bytes | None]
"""The bytes of a file of a distribution by its path below site-packages, ``""`` for a compiled one; None: no such."""

_MAKERS = frozenset({"namedtuple", "NamedTuple", "Enum", "IntEnum", "StrEnum", "Flag", "make_dataclass"})
# How a class has itself made with arguments, and what it inherits that from.
_REDUCES = frozenset({"__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__"})
_REDUCED = re.compile(r"\w*(Error|Exception|Warning|Enum|Flag)|str|int|float|complex|bytes|tuple|frozenset|NamedTuple")


def is_reduced(definition: ast.ClassDef) -> bool:
    """Whether a class has itself made with arguments when it is loaded from a pickle."""
    bases = (getattr(each, "attr", getattr(each, "id", "NamedTuple")) for each in definition.bases)
    own = (each.name for each in definition.body if isinstance(each, ast.FunctionDef))
    return any(_REDUCED.fullmatch(each) for each in bases) or any(each in _REDUCES for each in own)


def parsed(module: str, read: Read) -> ast.Module | None:
    """None where there is no source."""
    place = module.replace(".", "/")
    source = read(f"{place}.py")
    return _tree(read(f"{place}/__init__.py") if source is None else source)


def _tree(source: bytes | None) -> ast.Module | None:
    try:
        return None if source is None else ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def definitions(module: str, read: Read, *, functions: bool = False, nested: bool = False) -> frozenset[str] | None:
    """The classes (and functions) that a module's source defines, None where there is no source.

    With ``nested`` those in classes too, by qualified names, and what a call of ``namedtuple`` and its like makes.
    """
    tree = parsed(module, read)
    if tree is None:
        return None
    kinds = (ast.ClassDef, ast.FunctionDef) if functions else (ast.ClassDef,)
    found: set[str] = set()
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        prefix, parent = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, kinds) and not (functions and not nested and node.name.startswith("_")):
                found.add(prefix + node.name)
            if nested and isinstance(node, ast.ClassDef):
                pending.append((f"{prefix}{node.name}.", node))
            elif isinstance(node, ast.If | ast.Try | ast.With):
                pending.append((prefix, node))
            elif nested and isinstance(node, ast.Assign) and _makes_class(node.value):
                found |= {prefix + target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


def _makes_class(value: ast.expr) -> bool:
    called = value.func if isinstance(value, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in _MAKERS


def passed_on(package: str, read: Read) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """What a package's ``__init__.py`` takes from modules below its own root and calls by names of its own, each with
    the module and the name there; and those of which it takes all. Empty of what is no package."""
    tree = _tree(read(f"{package.replace('.', '/')}/__init__.py"))
    names: dict[str, tuple[str, str]] = {}
    whole: list[str] = []
    for node in () if tree is None else _statements(tree):
        if isinstance(node, ast.ImportFrom):
            module = _absolute(package, node)
            for each in node.names:
                if module is None:
                    names.pop(each.asname or each.name, None)
                elif each.name == "*":
                    whole.append(module)
                else:
                    names[each.asname or each.name] = module, each.name
        # A name that is something else as well may be that.
        for other in _rebound(node):
            names.pop(other, None)
    return names, tuple(whole)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    pending: list[ast.stmt] = list(reversed(tree.body))
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            pending += reversed([each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)])


def _absolute(package: str, node: ast.ImportFrom) -> str | None:
    parts = package.split(".")
    if node.level:
        above = parts[: len(parts) + 1 - node.level]
        module = ".".join([*above, *([node.module] if node.module else [])]) if above else ""
    else:
        module = node.module or ""
    return module if module.partition(".")[0] == parts[0] else None


def _rebound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name))
    elif isinstance(node, ast.Import):
        yield from (each.asname or each.name.partition(".")[0] for each in node.names)
