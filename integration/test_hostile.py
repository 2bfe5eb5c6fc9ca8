"""The corpus of hostile inputs against real processes: one line, within seconds and 200 MB.

One process imports the command line, and each case runs in a fork of it: what is measured is the kernel's own figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

TESTS = Path(__file__).parents[1] / "tests" / "cli"
# Of a processor, for others may want it too; what waits for ever is ended after ENDED of a clock.
SECONDS, MEGABYTES = 10.0, 200
ENDED = 60
RUNNER = dedent("""\
    import json, os, resource, signal, sys
    import kbuild.cli.app as app, kbuild.cli.render, kbuild.cli.inspect, kbuild.cli.diff, kbuild.cli.image
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(order["cwd"])
            signal.alarm(order["seconds"])
            for number, name in enumerate(("/dev/null", "out", "err")):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["kbuild", *order["argv"]]
            try:
                app.run()
            except SystemExit as error:
                sys.stdout.flush()
                os._exit(error.code)
            os._exit(99)
        _, status, used = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps([code, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]), flush=True)
    """)


def test_hostile_inputs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))
    from hostile_inputs import CORPUS

    environ = {
        **os.environ,
        "KBUILD_CACHE_DIR": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_URI": "sqlite:///not-there.db",
        "DO_NOT_TRACK": "1",
    }
    worst: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for number, case in enumerate(CORPUS):
            folder = tmp_path / str(number)
            folder.mkdir()
            argv = case.lay(folder)
            order = {"cwd": str(folder), "argv": argv, "seconds": ENDED}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            code, megabytes, seconds = json.loads(process.stdout.readline())
            said = {name: (folder / name).read_text("utf-8") for name in ("out", "err")}
            try:
                case.check(code, **said)
                assert megabytes < MEGABYTES and seconds < SECONDS
            except AssertionError as error:
                worst[case.name] = [str(error)[:300], megabytes, seconds]
            subprocess.run(["rm", "-rf", folder], check=True)  # 1,500 folders are too many for shutil
        process.stdin.close()
    assert len(CORPUS) >= 30 and worst == {}
