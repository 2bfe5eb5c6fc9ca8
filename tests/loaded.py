"""Processes of their own that need not import anew what takes seconds: each is split off one that has imported it.

What a program is given (environment, folder, stdin) and what it leaves (modules, patches) is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from types import TracebackType
from typing import IO

# The child leaves the loop and ends as any interpreter does, whatever its program raises, but for taking apart what was
# imported before: that is a tenth of a second each time, and nobody sees it.
_LOOP = """
import atexit, gc, importlib, json, os, sys, threading
gc.disable()
for name in sys.argv[1:]:
    importlib.import_module(name)
gc.freeze()
gc.enable()
orders = os.fdopen(os.dup(0))
for line in iter(orders.readline, ""):
    process = os.fork()
    if process == 0:
        break
    sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\\n")
    sys.stdout.flush()
else:
    sys.exit()
order = json.loads(line)
for number, name in enumerate(("stdin", "stdout", "stderr")):
    file = os.open(os.path.join(order["folder"], name), os.O_RDWR)
    os.dup2(file, number)
    os.close(file)
os.close(orders.fileno())
os.chdir(order["cwd"])
os.environ.clear()
os.environ.update(order["env"])
sys.argv = order["argv"]
sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", closefd=False), open(2, "w", closefd=False)
code = 0
try:
    exec(compile(order["program"], "<string>", "exec"), {"__name__": "__main__"})
except SystemExit as ended:
    code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)
except BaseException:
    code = 1
    sys.excepthook(*sys.exc_info())
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""


class Loaded:
    """An interpreter that has imported some modules, and programs that begin there."""

    def __init__(self, *modules: str, env: Mapping[str, str] | None = None) -> None:
        argv = [sys.executable, "-W", "ignore", "-c", _LOOP, *modules]
        self._process = subprocess.Popen(argv, env=env, stdin=PIPE, stdout=PIPE, text=True, bufsize=1)

    def run(
        self,
        program: str,
        stdin: str = "",
        *,
        argv: tuple[str, ...] = ("-c",),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> CompletedProcess[str]:
        """As ``python -c PROGRAM`` would end, where that is not changed by what is imported already."""
        orders, answers = self._streams()
        with tempfile.TemporaryDirectory(prefix="kbuild-loaded-") as folder:
            said = {name: Path(folder, name) for name in ("stdin", "stdout", "stderr")}
            for name, path in said.items():
                path.write_text(stdin if name == "stdin" else "", encoding="utf-8")
            order = {"program": program, "folder": folder, "argv": argv}
            order |= {"env": dict(os.environ if env is None else env), "cwd": str(cwd or Path.cwd())}
            orders.write(json.dumps(order) + "\n")
            answer = answers.readline()
            assert answer, "the interpreter that programs are split off has ended"
            out, err = (said[name].read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return CompletedProcess(argv, int(answer), out, err)

    def _streams(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def __enter__(self) -> Loaded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams():
            stream.close()
        self._process.wait(30)
