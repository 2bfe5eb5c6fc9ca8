import builtins
import gc
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from kbuild.cli import app, main
from kbuild.cli.app import report
from kbuild.cli.listed import COMMANDS, GROUPS
from kbuild.errors import InvalidModel, ModelNotFound


def outcome(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], act: Callable[[], object]):
    """Exit code and stderr of a command line whose one command does ``act``."""

    def main(*, standalone_mode: bool) -> object:
        return act()

    monkeypatch.setattr(app.cli, "main", main)
    with pytest.raises(SystemExit) as caught:
        app.run()
    return caught.value.code, capsys.readouterr().err


def fail(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


@pytest.fixture(autouse=True)
def no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBUILD_DEBUG", raising=False)


def test_success_is_zero(monkeypatch, capsys) -> None:
    assert outcome(monkeypatch, capsys, lambda: None) == (0, "")


def test_an_error_of_ours_is_its_line_its_hint_and_its_code(monkeypatch, capsys) -> None:
    code, err = outcome(monkeypatch, capsys, fail(ModelNotFound("no run x", hint="look elsewhere")))
    assert (code, err) == (11, "error: no run x\n  look elsewhere\n  more: kbuild help exit-codes#11\n")


def test_what_nobody_foresaw_is_one_line_and_code_one(monkeypatch, capsys) -> None:
    code, err = outcome(monkeypatch, capsys, fail(ZeroDivisionError("division\nby zero")))
    assert code == 1
    assert err.startswith("error: ZeroDivisionError: division by zero\n")
    assert "KBUILD_DEBUG=1" in err and "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch, capsys) -> None:
    monkeypatch.setenv("KBUILD_DEBUG", "1")
    assert "Traceback" in outcome(monkeypatch, capsys, fail(ModelNotFound("no")))[1]


def test_the_system_saying_no_is_an_output_error(monkeypatch, capsys) -> None:
    code, err = outcome(monkeypatch, capsys, fail(OSError(28, "No space left on device", "/x")))
    assert code == 42 and "No space left on device" in err


def test_a_missing_build_tool_says_how_to_install_it(monkeypatch, capsys) -> None:
    code, err = outcome(monkeypatch, capsys, fail(ModuleNotFoundError("No module named 'x'", name="x")))
    assert code == 5 and "kbuild[build]" in err


@pytest.mark.parametrize(
    ("line", "extras"),
    [
        ("image m", "build"),
        ("image m --queue postgresql:///x", "build,queue"),
        ("watch --queue=postgresql:///x", "build,queue"),
        ("worker --once", "build,queue"),
        ("queue list", "build,queue"),
        ("pack queue", "build"),
        ("score m in out --spark spark://h:7077", "build,spark"),
        ("demo", "build,demo"),
        ("", "build"),
    ],
)
def test_all_that_a_command_needs_is_named_at_once(monkeypatch, capsys, line: str, extras: str) -> None:
    monkeypatch.setattr("sys.argv", ["kbuild", *line.split()])
    code, err = outcome(monkeypatch, capsys, fail(ModuleNotFoundError("No module named 'x'", name="x")))
    assert (code, err.splitlines()[1]) == (5, f"  pip install 'kbuild[{extras}]'")


def test_ctrl_c_is_130(monkeypatch, capsys) -> None:
    assert outcome(monkeypatch, capsys, fail(KeyboardInterrupt())) == (130, "stopped\n")


def test_a_bad_option_is_two_with_usage(monkeypatch, capsys) -> None:
    code, err = outcome(monkeypatch, capsys, fail(click.UsageError("No such option: --x")))
    assert code == 2 and "No such option" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "code"), [(["--version"], 0), (["--help"], 0), (["nothing"], 2), (["image", "--jobs", "2"], 2)]
)
def test_the_program_itself(argv: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "kbuild", *argv], capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_help_imports_no_engine_and_no_mlflow() -> None:
    code = """
import sys
from kbuild.cli.app import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
print([name for name in ("mlflow", "docker", "rattler", "kedro") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_sigterm_ends_what_was_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    # The program may run before Popen has returned in its parent; that instant is not what is tested here.
    script = f"sleep 30 & echo $! > {pid}.new; sleep 0.5; mv {pid}.new {pid}; wait"
    code = f"""
from kbuild.cli import app
from kbuild.process import run
app.cli.main = lambda standalone_mode: run(["sh", "-c", {script!r}])
app.run()
"""
    program = subprocess.Popen([sys.executable, "-c", code])
    while not pid.exists():
        assert program.poll() is None
        time.sleep(0.02)
    program.terminate()
    assert program.wait(20) == 143
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("what it started goes on")


@pytest.mark.parametrize(
    ("typed", "said"),
    [("imgae", "Did you mean image?"), ("verfy", "Did you mean verify?"), ("x", "No such command 'x'.")],
)
def test_a_command_that_is_misspelt_is_answered_with_the_nearest(typed: str, said: str) -> None:
    done = CliRunner().invoke(app.cli, [typed])
    assert done.exit_code == 2 and said in done.stderr
    assert ("Did you mean" in done.stderr) == ("Did" in said)


def test_images_is_another_name_of_list() -> None:
    assert CliRunner().invoke(app.cli, ["images", "--help"]).stdout.startswith("Usage: cli images")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_example_of_the_help_can_be_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app.cli, [name, "--help"]).stdout
    examples = COMMANDS[name].examples
    assert len(examples) >= 2
    for typed, _ in examples:
        assert f"  {typed}" in shown, "whole, on a line of its own"
        words = shlex.split(typed.removeprefix('eval "$(').removesuffix(')"'))
        words = words[: words.index(">")] if ">" in words else words
        assert words[:2] == ["kbuild", name]
        command = app.cli.get_command(click.Context(app.cli), name)
        assert command is not None
        rest = words[2:]
        if isinstance(command, click.Group) and not rest[0].startswith("-"):
            context = click.Context(command, info_name=name)
            _, command, rest = command.resolve_command(context, rest)
            assert command is not None
        # Parses every option and argument with its type and callback, and runs nothing.
        command.make_context(name, rest)


def test_commands_are_listed_by_what_one_wants_to_do() -> None:
    lines = CliRunner().invoke(app.cli, ["--help"]).stdout.splitlines()
    titles = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options", *GROUPS]
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in COMMANDS]
    assert sorted(listed) == sorted(COMMANDS)
    modules = {path.stem for path in Path(app.__file__).parent.glob("*.py")}
    assert set(COMMANDS) <= modules


@pytest.mark.parametrize("terminal", ["stderr", "stdout"])
def test_an_error_is_broken_where_the_terminal_that_shows_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str
) -> None:
    """Results may go into a file meanwhile, or only they be shown."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(getattr(sys, terminal), "isatty", lambda: True)
    report(InvalidModel("the model " + "has many words " * 6, hint="look at " + "each of them " * 6))
    lines = capsys.readouterr().err.splitlines()
    shown = lines if terminal == "stderr" else []
    assert all(len(line) <= 40 for line in shown) and (len(lines) > 5) is (terminal == "stderr")


@pytest.mark.parametrize(
    ("name", "told"), [("docker", True), ("yaml.reader", True), ("kbuild.lost", False), (None, False)]
)
def test_without_what_builds_the_extra_is_named_and_what_kbuild_lacks_itself_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str | None, told: bool
) -> None:
    error, whole = ModuleNotFoundError(f"No module named {name!r}", name=name), builtins.__import__

    def without(wanted: str, *given: Any, **more: Any) -> Any:
        if wanted == "kbuild.cli.app":
            raise error
        return whole(wanted, *given, **more)

    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    monkeypatch.setattr(builtins, "__import__", without)
    if not told and name is not None:
        with pytest.raises(ModuleNotFoundError):
            main()
        return
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 5
    first, hint = capsys.readouterr().err.splitlines()
    assert first == f"error: kbuild's build tools are not installed ({name} is missing)"
    assert hint == "  pip install 'kbuild[build]'"
