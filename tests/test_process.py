import sys
from pathlib import Path

import pytest

from kbuild.errors import ProgramNotFound
from kbuild.process import run


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_both_streams_and_the_code_come_back() -> None:
    done = run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_lines_of_stderr_come_while_it_runs() -> None:
    lines: list[str] = []
    run(python("import sys\nfor i in range(3): print(i, file=sys.stderr)"), on_line=lines.append)
    assert lines == ["0", "1", "2"]


def test_stdin_is_passed_and_closed() -> None:
    assert run(python("import sys; print(sys.stdin.read().upper())"), stdin="abc").stdout == "ABC\n"


def test_much_output_on_both_streams_does_not_block() -> None:
    done = run(python("import sys\nfor s in (sys.stdout, sys.stderr): s.write('x' * 500_000)"))
    assert len(done.stdout) == len(done.stderr) == 500_000


def test_environment_replaces_the_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_TEST_LEAK", "1")
    done = run(python("import os; print('KBUILD_TEST_LEAK' in os.environ)"), env={"PATH": "/usr/bin"})
    assert done.stdout == "False\n"


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramNotFound, match="no-such-program"):
        run(["no-such-program"])
    with pytest.raises(FileNotFoundError):
        run([sys.executable], cwd=tmp_path / "nowhere")


def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError):
        run(python("import time; time.sleep(60)"), timeout=0.2)
