"""The signature "used": of the columns that the inference pipeline reads, of one table or of each of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from kbuild.errors import RecordingError
from kbuild.recording.input.reads import get_reads, observe, plain
from kbuild.recording.output.answer import write_answer

USED_HINT = (
    "let the first inference node take the columns that it needs by name, data[['a', 'b']], or leave the signature out"
)


def is_used(value: Any) -> bool:
    """Whether a signature is to be of the columns that the pipeline reads."""
    return isinstance(value, str) and value == "used"


def _kind_name(kind: type) -> str:
    """A DataFrame of another library is told from pandas' own."""
    library = kind.__module__.partition(".")[0]
    return kind.__name__ if library in ("builtins", "pandas", "numpy") else f"{kind.__name__} of {library}"


def refuse_used(name: str, kind: type) -> RecordingError:
    """What is told of the signature "used" for an input that is no table."""
    return RecordingError(
        f"log_model_kwargs signature 'used' is for tables of pandas, and {name!r} is a {_kind_name(kind)}",
        hint="leave the signature out, or say 'auto' there",
    )


def find_used(name: str, known: Any, ask: Callable[[Any], Any]) -> tuple[Any, str]:
    """The columns that the pipeline reads, for ``narrow``, and its answer to all of them.

    Of several inputs, a dict, those of each table. One that is taken whole, or counted alone, stays whole among others.
    """
    several = isinstance(known, dict)
    tables = {key: each for key, each in (known if several else {name: known}).items() if type(each) is pd.DataFrame}
    if not tables:
        raise refuse_used(name, type(known))
    seen = {key: observe(each.copy()) for key, each in tables.items()}
    given = {key: table for key, (table, _) in seen.items()}
    every = [reads for _, reads in seen.values()]
    try:
        answer = ask({**known, **given} if several else given[name])
    except RecordingError:
        answer = ask(known)  # raises what is the nodes' own fault; the rest is the observing's
        for reads in every:
            reads.everything = True
    if (whole := get_reads(answer)) is not None:
        whole.everything = True  # the table itself, or what is left of it
    text = write_answer(plain(answer))
    used = {key: reads.names for key, (_, reads) in seen.items() if reads.names and not reads.everything}
    if used:
        return (used if several else used[name]), text
    named = ", ".join(map(repr, tables))
    if not any(reads.everything for reads in every):
        raise RecordingError(
            f"the inference pipeline reads no column of {named}, so with the signature 'used' there would "
            "be none for requests to bring",
            hint="leave the signature out of log_model_kwargs and kbuild.yml, or say 'auto' there",
        )
    raise RecordingError(
        f"which columns of {named} the inference pipeline reads cannot be told: its nodes take the table whole",
        hint=USED_HINT,
    )


def narrow(value: Any, used: Any) -> Any:
    """A table, or a dict of several inputs, with the columns that ``find_used`` found alone."""
    if isinstance(used, dict):
        return {name: each[used[name]] if name in used else each for name, each in value.items()}
    return value[used]
