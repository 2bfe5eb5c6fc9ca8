"""How the changes of an image are told to people: each fact once, by the name that people know it by."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from kbuild.offered.change import Change, find_changes
from kbuild.plan.make import LABEL_MODEL_URI, LABEL_SIGNATURE
from kbuild.untrusted import BrokenText, parse_json

_LABEL, _ENV, _ANNOTATION = "config.Labels.", "config.Env.", "annotation "
_OWN, _OCI = "io.kbuild.", "org.opencontainers.image."
_PROCESSES = frozenset({"config.Entrypoint", "config.Cmd", "config.Shell"})


def config_lines(changes: Iterable[Change]) -> Iterator[str]:
    """Changes of config and annotations without those that say another one again, and kbuild's own labels first.

    An annotation says what the label of its name does, a variable of kbuild's what its label does, and some labels are
    there again for tools that know no other. The history is of layers, which are told by themselves.
    """
    given = {change.name: change for change in changes if change.name != "history"}
    for change in sorted(given.values(), key=_order):
        if not _is_again(change, given):
            yield from (each.to_text() for each in _parts(change))


def file_line(change: Change) -> str:
    """A changed file with each of its facts named once: ``size 3 -> 5`` for ``size 3`` and ``size 5``."""
    before, after = (_facts(text) for text in (change.before, change.after))
    if [name for name, _ in before] != [name for name, _ in after]:
        return change.to_text()  # it is in one alone, or a link leads to a name with commas
    told = [f"{name} {one} -> {other}" for (name, one), (_, other) in zip(before, after, strict=True)]
    return f"~ {change.name}: {', '.join(told)}"


def _facts(text: str | None) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (fact.partition(" ") for fact in (text or "").split(", "))]


def _order(change: Change) -> int:
    name = change.name.removeprefix(_LABEL)
    return 0 if name.startswith(_OWN) else 2 if name.startswith((_OCI, _ENV, _ANNOTATION)) else 1


def _is_again(change: Change, given: Mapping[str, Change]) -> bool:
    values = change.before, change.after

    def says(name: str, form: str = "{}") -> bool:
        other = given.get(name)
        texts = tuple(None if value is None else form.format(value) for value in values)
        return other is not None and (other.before, other.after) == texts

    if change.name.startswith(_ANNOTATION):
        return says(_LABEL + change.name.removeprefix(_ANNOTATION))
    if change.name.startswith(f"{_ENV}KBUILD_"):
        return says(f"{_LABEL}io.{change.name.removeprefix(_ENV).lower().replace('_', '.')}")
    if change.name == f"{_LABEL}{_OCI}created":
        return says("created")
    return change.name == f"{_LABEL}{_OCI}version" and says(_LABEL + LABEL_MODEL_URI, "models:/{}")


def _parts(change: Change) -> Iterable[Change]:
    """The change by another name, and of a text that is JSON what changed in it."""
    if change.name == _LABEL + LABEL_SIGNATURE:
        before, after = _columns(change.before), _columns(change.after)
        if before is not None and after is not None and before != after:
            return find_changes(before, after)
    name = change.name
    for prefix, kind in ((_LABEL, "label "), (_ENV, "variable "), ("config.", "")):
        if name.startswith(prefix):
            name = kind + name.removeprefix(prefix)
            break
    return [replace(change, name=name, before=_plain(change, change.before), after=_plain(change, change.after))]


def _plain(change: Change, text: str | None) -> str | None:
    """A command as it is typed."""
    if text is None or change.name not in _PROCESSES:
        return text
    try:
        words = parse_json(text)
    except BrokenText:
        return text
    return shlex.join(map(str, words)) if isinstance(words, list) else text


def _columns(text: str | None) -> dict[str, str] | None:
    """``signature inputs.age`` -> its type, of a signature as the label has it; None where it is something else."""
    try:
        signature: Any = parse_json(text or "{}")
        return {
            f"signature {part}.{column.get('name', number)}": _type(column)
            for part, columns in signature.items()
            for number, column in enumerate(columns or ())
        }
    except (BrokenText, AttributeError, TypeError):
        return None


def _type(column: Mapping[str, Any]) -> str:
    kind = f"{column.get('tensor-spec') or column.get('type')}"
    default = f", else {column['default']!r}" if "default" in column else ""
    return kind + ("" if column.get("required", True) else ", may be left out") + default
