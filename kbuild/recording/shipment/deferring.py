"""Which imports of a project's ``__init__`` files only making pipelines needs, so that a model can do without Kedro.

Kedro's standard layout imports ``pipeline.py``, and so Kedro, from the package that holds the node functions. Such an
import is put off until one of its names is asked for, where that changes nothing: no served code uses its names, and
what it imports only defines names. One whose removal is not needed to be without Kedro stays as it is.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kbuild.recording.shipment.effects import find_effect
from kbuild.recording.shipment.tracing import (
    Cut,
    ImportPlace,
    ReachedModules,
    absolute,
    find_source,
    follow_imports,
    imports_of,
    keep_aliases,
    package_of,
    read_tree,
    without,
)

# A module that uses one of these sees, or sets, names by other ways than writing them.
_SEES_ALL = {"globals", "locals", "vars", "dir", "exec", "eval", "__getattr__", "__dir__", "__import__"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PutOff:
    """One import of an ``__init__`` file: where it stands, the names that ask for it, and its text."""

    module: str
    source: Path
    cut: Cut
    names: frozenset[str]
    imports: tuple[str, ...]
    line: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Deferral:
    """The imports to put off; or none of them, and ``reason`` says what needs the unwanted package, and where."""

    put_off: tuple[PutOff, ...] = ()
    reason: str | None = None

    def reach(self, starts: Iterable[str], is_own: Callable[[str], bool]) -> ReachedModules:
        """What importing ``starts`` imports with these put off."""
        return _reach(starts, is_own, self.put_off)


def plan_deferral(
    starts: Collection[str], is_own: Callable[[str], bool], is_unwanted: Callable[[str], bool]
) -> Deferral:
    """What to put off so that nothing ``is_unwanted`` (a module of another's package) is imported by ``starts``."""
    planner = _Planner(starts, is_own, is_unwanted)
    put_off, reached = planner.settle(planner.find_candidates())
    if unwanted := planner.find_unwanted(reached):
        return Deferral(reason=planner.tell(unwanted, reached))
    # From the outermost package inwards, each that may stay does.
    for each in sorted(put_off, key=lambda one: (one.module.count("."), one.module, one.line)):
        fewer, reached = planner.settle(put_off - {each})
        if not planner.find_unwanted(reached):
            put_off = fewer
    _, reached = planner.settle(put_off)
    if (effect := planner.find_effect(put_off, reached)) is not None:
        return Deferral(reason=effect)
    return Deferral(put_off=tuple(sorted(put_off, key=lambda one: (one.module, one.line, one.cut.alias or 0))))


class _Planner:
    def __init__(
        self, starts: Collection[str], is_own: Callable[[str], bool], is_unwanted: Callable[[str], bool]
    ) -> None:
        self._starts = starts
        self._is_own = is_own
        self._is_unwanted = is_unwanted
        self._whole = follow_imports(starts, is_own)

    def find_candidates(self) -> frozenset[PutOff]:
        found: set[PutOff] = set()
        for module in self._whole.own:
            source = find_source(module)
            if source is not None and source.name == "__init__.py":
                found |= set(_find_put_off(module, source))
        return frozenset(found)

    def settle(self, put_off: frozenset[PutOff]) -> tuple[frozenset[PutOff], ReachedModules]:
        """Those of ``put_off`` whose names nothing asks for that is imported without them, and what is imported."""
        while True:
            reached = _reach(self._starts, self._is_own, put_off)
            asked = self._find_asked(put_off, reached)
            if not asked:
                return put_off, reached
            put_off -= asked

    def find_unwanted(self, reached: ReachedModules) -> list[str]:
        return sorted(filter(self._is_unwanted, reached.foreign))

    def tell(self, unwanted: list[str], reached: ReachedModules) -> str:
        for name in unwanted:
            if (place := reached.asked.get(name)) is not None:
                own = place.module in self._starts
                advice = "; it holds served functions, which a file of their own would free of that" if own else ""
                return f"{place} imports {name}{advice}"
        return f"the served pipeline itself uses {unwanted[0]}, for a dataset or a node"

    def find_effect(self, put_off: Iterable[PutOff], reached: ReachedModules) -> str | None:
        """What importing does besides defining names, of all that would no longer be imported."""
        later = _reach([*self._starts, *(name for each in put_off for name in each.imports)], self._is_own, put_off)
        for module in sorted(later.own - reached.own):
            source = find_source(module)
            if source is None or source.suffix != ".py":
                return f"{module}, which making pipelines imports, is compiled, so nobody sees what importing it does"
            tree = read_tree(module, source)
            if (effect := find_effect(tree, package_of(module, source), self._is_own)) is not None:
                place = ImportPlace(module=module, source=source, line=effect[0])
                return f"{place} {effect[1]} when it is imported, which making pipelines does"
        return None

    def _find_asked(self, put_off: frozenset[PutOff], reached: ReachedModules) -> frozenset[PutOff]:
        lacking = self._whole.own - reached.own
        asked: set[PutOff] = set()
        for module in sorted(reached.own):
            source = find_source(module)
            if source is None or source.suffix != ".py":
                continue
            cuts = [each.cut for each in put_off if each.module == module]
            names, words = _find_names(without(read_tree(module, source), cuts), package_of(module, source))
            for each in put_off - asked:
                if each.module != module and _asks_for(each, names, words, lacking):
                    asked.add(each)
        return frozenset(asked)


def _reach(starts: Iterable[str], is_own: Callable[[str], bool], put_off: Iterable[PutOff]) -> ReachedModules:
    cuts: dict[str, set[Cut]] = {}
    for each in put_off:
        cuts.setdefault(each.module, set()).add(each.cut)
    return follow_imports(starts, is_own, cuts)


def _asks_for(each: PutOff, names: set[str], words: set[str], lacking: Collection[str]) -> bool:
    if any(f"{each.module}.{name}" in names for name in (*each.names, "*")):
        return True
    # getattr(package, "name"), where the package itself is at hand.
    if each.module in names and words & each.names:
        return True
    # A module that would no longer be imported, named without importing it.
    return any(
        name in words or any(f"{one}.".startswith(f"{name}.") for one in names) for name in lacking if "." in name
    )


def _find_names(tree: ast.Module, package: str) -> tuple[set[str], set[str]]:
    """The full names that code refers to, with all that lie above them, and the texts in it that might be names."""
    bound: dict[str, str] = {}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
                names.add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{base}.{alias.name}"
                names.add(f"{base}.{alias.name}")
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(_full_name(node, bound))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(f"{package}{node.value}" if node.value.startswith(".") else node.value)
    return names, words


def _full_name(node: ast.expr, bound: Mapping[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, bound)}.{node.attr}"
    return bound.get(node.id, "") if isinstance(node, ast.Name) else ""


def _find_put_off(module: str, source: Path) -> list[PutOff]:
    """The imports of an ``__init__`` file that it does not use itself."""
    tree = read_tree(module, source)
    package = package_of(module, source)
    walked = list(ast.walk(tree))
    ids = [node.id for node in walked if isinstance(node, ast.Name)]
    defined = {node.name for node in walked if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if _SEES_ALL & {*ids, *defined} or any(
        isinstance(node, ast.Attribute) and node.attr == "modules" for node in walked
    ):
        return []
    found = []
    for number, statement in enumerate(tree.body):
        if _shares_a_line(tree.body, number):
            continue
        for cut, part in _split(number, statement):
            if (bound := _bound_by(part, module, package)) is None:
                continue
            given, below = bound
            used, set_again = _names_in(without(tree, [cut]))
            if not (given | below) & used and not given & set_again:
                imports = tuple(dict.fromkeys(name for name, _ in imports_of(ast.Module([part], []), package)))
                text = ast.unparse(part)
                found.append(
                    PutOff(
                        module=module,
                        source=source,
                        cut=cut,
                        names=given | below,
                        imports=imports,
                        line=statement.lineno,
                        text=text,
                    )
                )
    return found


def _split(number: int, statement: ast.stmt) -> list[tuple[Cut, ast.stmt]]:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            return []
        count = len(statement.names)
        return [(Cut(statement=number, alias=each), keep_aliases(statement, [each])) for each in range(count)]
    if isinstance(statement, ast.Try) and _only_imports(statement):
        return [(Cut(statement=number), statement)]
    return []


def _only_imports(statement: ast.Try) -> bool:
    """Whether a try does no more than import, or set names to constants."""
    body = [*statement.body, *(each for one in statement.handlers for each in one.body), *statement.orelse]
    return all(
        isinstance(each, ast.Import | ast.ImportFrom | ast.Pass)
        or (
            isinstance(each, ast.Assign)
            and isinstance(each.value, ast.Constant)
            and all(isinstance(target, ast.Name) for target in each.targets)
        )
        for each in [*body, *statement.finalbody]
    )


def _bound_by(statement: ast.stmt, module: str, package: str) -> tuple[frozenset[str], frozenset[str]] | None:
    """The names that a statement sets, and the submodules that it makes names of; None: nobody knows."""
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            if alias.name == "*":
                target = sys.modules.get(absolute(node, package)) if isinstance(node, ast.ImportFrom) else None
                if target is None:
                    return None
                public = [name for name in vars(target) if not name.startswith("_")]
                names |= set(getattr(target, "__all__", public))
            else:
                names.add(alias.asname or alias.name.partition(".")[0])
    below = f"{module}."
    imported = [name for name, _ in imports_of(ast.Module([statement], []), package)]
    submodules = {name.removeprefix(below).partition(".")[0] for name in imported if name.startswith(below)}
    return frozenset(names), frozenset(name for name in submodules if find_source(below + name) is not None)


def _names_in(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Names that a file reads or assigns, and those that it imports."""
    names: set[str] = set()
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return names, imported


def _shares_a_line(body: list[ast.stmt], number: int) -> bool:
    statement = body[number]
    before = body[number - 1].end_lineno if number else None
    after = body[number + 1].lineno if number + 1 < len(body) else None
    return before == statement.lineno or after == statement.end_lineno
