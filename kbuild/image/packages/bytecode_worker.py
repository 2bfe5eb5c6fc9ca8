"""Compiles Python files inside the image's own interpreter; started by bytecode.py, imports nothing of kbuild.

Reads ``{"parent": process id, "files": [[source, path in the image], ...]}`` as JSON from stdin and writes one ``.pyc``
a file, with the unchecked hash of PEP 552. Answers ``{"skipped": [...]}``: the files that are not valid Python. Ends
when its parent is gone, before the next file.
"""

# ruff: noqa: PTH103, PTH120, PTH123
# pathlib would cost as much to import as a small wheel to compile

import sys

sys.path.pop(0)  # this file's own directory, whose modules would hide the standard library's

import importlib.util
import json
import marshal
import os
import types


def shared_strings(code: types.CodeType, held: list[str]) -> None:
    """Hold every string of a code object, so that marshal always writes it as shared.

    marshal marks objects that have more than one reference, and a string may have others for reasons outside
    this file (any module loaded or compiled before may hold the same name): without this the bytes depend on them.
    """
    held.extend((code.co_name, code.co_filename, getattr(code, "co_qualname", "")))
    held.extend(code.co_names + code.co_varnames + code.co_cellvars + code.co_freevars)
    pending = list(code.co_consts)
    while pending:
        constant = pending.pop()
        if isinstance(constant, str):
            held.append(constant)
        elif isinstance(constant, (tuple, frozenset)):
            pending.extend(constant)
        elif isinstance(constant, types.CodeType):
            shared_strings(constant, held)


def compile_file(source: str, shown: str) -> None:
    with open(source, "rb") as file:
        text = file.read()
    code = compile(text, shown, "exec", dont_inherit=True)
    held: list[str] = []
    shared_strings(code, held)
    target = importlib.util.cache_from_source(source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(text))
        file.write(marshal.dumps(code))


def intern_characters() -> None:
    """Make every string of one Latin-1 character an interned one, which marshal writes otherwise.

    CPython has one object for each of them, so that a name in one file would decide how a constant of another is
    written, and the bytes would depend on what is compiled together.
    """
    for code in range(256):
        sys.intern(chr(code))


def main() -> None:
    intern_characters()
    skipped = []
    order = json.load(sys.stdin)
    for source, shown in order["files"]:
        # Who was killed cannot end what it started.
        if os.getppid() != order["parent"]:
            sys.exit("the process that started this one has ended")
        try:
            compile_file(source, shown)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # a template, or a test of the compiler
            skipped.append(shown)
    json.dump({"skipped": skipped}, sys.stdout)


if __name__ == "__main__":
    main()
