"""Calls a build backend (PEP 517); started by sdists.py with the interpreter of the build's own environment.

It imports nothing of kbuild, and of the standard library only what a fresh interpreter has. Reads JSON from stdin:
source, requires, backend, backend_path, step (requires or wheel), into, answer. Writes what the backend said as JSON
to the file ``answer``: backends print what they like to stdout.
"""

import sys

sys.path.pop(0)  # this file's own directory, whose modules would hide those of the backend

import importlib
import json
import os
from pathlib import Path


def main() -> None:
    order = json.load(sys.stdin)
    os.umask(0o022)
    os.chdir(order["source"])
    sys.path[:0] = [str(Path(order["source"], path)) for path in order["backend_path"]]
    module, _, name = order["backend"].partition(":")
    backend = importlib.import_module(module)
    for part in filter(None, name.split(".")):
        backend = getattr(backend, part)
    if order["step"] == "requires":
        asked = getattr(backend, "get_requires_for_build_wheel", None)
        answer = [] if asked is None else list(asked())
    else:
        answer = backend.build_wheel(order["into"])
    Path(order["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
