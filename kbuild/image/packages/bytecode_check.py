"""No image without its bytecode: every Python file of the layers has a ``.pyc``, but packages' tests and what is not
valid Python.

Packages carry templates that end in ``.py`` and that nothing imports; the image's own interpreter says which those are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kbuild.errors import BuildFailed, BytecodeMissing
from kbuild.image.packages.bytecode import ENVIRONMENT, Compiler, goes_without
from kbuild.process import Runner
from kbuild.progress import at_most

_SHOWN = 5
# Answers which of the files on stdin it cannot compile, in the words of bytecode_worker.py's own test.
_PROBE = """
import json, sys
invalid = []
for path in json.load(sys.stdin):
    try:
        with open(path, "rb") as file:
            compile(file.read(), path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        invalid.append(path)
json.dump(invalid, sys.stdout)
"""


def check_bytecode(
    trees: Iterable[Path], folders: Sequence[str], tag: str, compiler: Compiler, *, run: Runner
) -> tuple[str, ...]:
    """The in-image paths of files that are not valid Python and so have no bytecode, sorted.

    Looks at the in-image ``folders`` of each tree; ``tag`` is the interpreter's (PEP 3147), such as cpython-311.
    Raises BytecodeMissing naming what has none and could have, BuildFailed when the interpreter does not run.
    """
    bare = {path: path[len(str(tree)) :] for tree in trees for path in _find_bare(tree, folders, tag)}
    if not bare:
        return ()
    argv = [str(compiler.python), "-S", "-s", "-B", "-W", "ignore", "-c", _PROBE]
    done = run(argv, env=ENVIRONMENT, stdin=json.dumps(sorted(bare)))
    if done.returncode != 0:
        raise BuildFailed(f"the image's interpreter does not run here: {done.stderr.strip()[-300:]}")
    invalid = set(json.loads(done.stdout))
    missing = sorted(shown for path, shown in bare.items() if path not in invalid)
    if missing:
        raise BytecodeMissing(f"no bytecode for {at_most(missing, _SHOWN)}")
    return tuple(sorted(bare.values()))


def _find_bare(tree: Path, folders: Sequence[str], tag: str) -> list[str]:
    found = []
    for folder in folders:
        for directory, names, files in os.walk(f"{tree}{folder}"):
            shown = directory[len(str(tree)) :]
            names[:] = [name for name in names if name != "__pycache__" and not goes_without(f"{shown}/{name}")]
            sources = [name for name in files if name.endswith(".py")]
            if not sources:
                continue
            try:
                compiled = set(os.listdir(f"{directory}/__pycache__"))  # noqa: PTH208  paths cost more than the walk
            except FileNotFoundError:
                compiled = set()
            found += [f"{directory}/{name}" for name in sources if f"{name[:-3]}.{tag}.pyc" not in compiled]
    return found
