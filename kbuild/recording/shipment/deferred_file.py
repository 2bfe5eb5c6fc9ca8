"""An ``__init__`` file with imports put off: its text as it travels with a model, and how that is known again.

The lines stay where they are, as comments, so that tracebacks name the right ones. A module's ``__getattr__`` (PEP 562)
runs them when one of their names is asked for.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterable
from pathlib import Path

from kbuild.recording.shipment.deferring import PutOff
from kbuild.recording.shipment.tracing import keep_aliases

_BLOCK = """

# Added by kbuild when the model was logged: no served function needs the imports above that are comments now, so they
# run when one of their names is asked for.
# sha256 of this file as it was: {digest}
_KBUILD_PUT_OFF = {{
{entries}}}


def __getattr__(name):
    for names, text in _KBUILD_PUT_OFF.items():
        if name in names:
            exec(compile(text, __file__, "exec"), globals())
            if name in globals():
                return globals()[name]
    raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
"""
_MARK = re.compile(rb"^# sha256 of this file as it was: ([0-9a-f]{64})\r?$", re.MULTILINE)


def write_deferred(source: Path, put_off: Iterable[PutOff]) -> bytes:
    """The bytes of ``source`` with these imports of it put off."""
    given = source.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(given).readline)
    # Line ends become those of a text file, as the parser counts them.
    text = io.TextIOWrapper(io.BytesIO(given), encoding).read()
    lines = text.split("\n")
    body = ast.parse(given).body
    cuts: dict[int, set[int | None]] = {}
    for each in put_off:
        cuts.setdefault(each.cut.statement, set()).add(each.cut.alias)
    for number, gone in cuts.items():
        statement = body[number]
        end = statement.end_lineno or statement.lineno
        for line in range(statement.lineno - 1, end):
            lines[line] = f"# {lines[line]}".rstrip()
        if None not in gone and isinstance(statement, ast.Import | ast.ImportFrom):
            kept = keep_aliases(statement, [n for n in range(len(statement.names)) if n not in gone])
            if kept.names:
                lines[statement.lineno - 1] = f"{ast.unparse(kept)}  {lines[statement.lineno - 1]}"
    entries = "".join(f"    {tuple(sorted(each.names))!r}: {each.text!r},\n" for each in put_off)
    block = _BLOCK.format(digest=hashlib.sha256(given).hexdigest(), entries=entries)
    made = "\n".join(lines).rstrip("\n") + "\n" + block
    return made.encode(encoding)


def is_same_code(shipped: bytes, own: bytes) -> bool:
    """Whether a file of a model is ``own``, or was made of it by putting imports off."""
    if shipped == own:
        return True
    marks = _MARK.findall(shipped)
    return bool(marks) and marks[-1].decode() == hashlib.sha256(own).hexdigest()
