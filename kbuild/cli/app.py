"""The click group: commands are imported when they are called, errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import io
import locale
import os
import signal
import sys
import traceback
import warnings
from types import FrameType

import click

from kbuild._version import __version__
from kbuild.cli.lacking import make_doctor, make_hint
from kbuild.cli.listed import COMMANDS, GROUPS
from kbuild.cli.suggesting import Suggesting
from kbuild.docs import more_about
from kbuild.errors import ExtraNotInstalled
from kbuild.process.asking import is_asking
from kbuild.refused import known_error
from kbuild.untrusted import folded, plain

_ALIASES = {"images": "list", "build": "image"}
_NAMES = max(map(len, COMMANDS))
_UTF8 = "utf8"
_BELOW = 2  # columns of what belongs to the line above


def _import(module: str) -> click.Command:
    try:
        command: click.Command = importlib.import_module(module).command
    except ModuleNotFoundError as error:
        if module != "kbuild.cli.doctor" or error.name is None or error.name.partition(".")[0] == "kbuild":
            raise
        return make_doctor(error.name)
    return command


class _LazyGroup(Suggesting):
    """Knows its commands by name, so that ``kbuild --help`` imports no engine."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = _ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, listed = f"kbuild.cli.{cmd_name}", COMMANDS[cmd_name]
        command = _import(module)
        command.epilog = listed.epilog()
        if listed.talks and not any(option.name == "quiet" for option in command.params):
            from kbuild.cli.show import talk_options

            talk_options(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(_NAMES), listed.summary) for name, listed in commands.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kbuild")
def cli() -> None:
    """The model you trained, served as it was trained.

    Start with "kbuild demo", or with "kbuild image" in a Kedro project that has trained a model.
    Results go to stdout, progress and hints to stderr.
    """


def run() -> None:
    """Run the command line and exit with its code."""
    _name_files_in_utf8()
    _let_libraries_warn()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _end)
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped", err=True)
        code = 130
    except BrokenPipeError:
        # The reader of stdout went away; Python would complain once more while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except SystemExit as error:
        code = error.code
        if is_asking():
            _leave(code)
        raise
    except Exception as error:  # noqa: BLE001  the last place: no traceback may reach a user
        code = report(error)
    if is_asking():
        _leave(code)
    sys.exit(code if isinstance(code, int) else 0)


def _leave(code: object) -> None:
    """End now, and not when the last server has answered or a time-out is over: all blocks have been left."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


def _name_files_in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale names files in other letters.

    Archives, package lists and locks say names in UTF-8, and every library here writes them by the locale: the same
    packages would become other names, or none. What a terminal is shown stays in its own letters.
    """
    if sys.getfilesystemencoding() != "utf-8":
        sys.stdout.flush()
        environ = {**os.environ, "PYTHONUTF8": "1"}  # what it starts names files the same way
        os.execve(sys.executable, [sys.executable, "-X", _UTF8, *sys.orig_argv[1:]], environ)  # noqa: S606
    if _UTF8 in sys._xoptions and not os.environ.get("PYTHONIOENCODING"):
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding=locale.getencoding(), errors="backslashreplace")


def _let_libraries_warn() -> None:
    """Keep a warning a warning, also in what is started: ``PYTHONWARNINGS=error`` is meant for the user's own code, and
    MLflow, SQLAlchemy and conda-lock warn about each other. What else is stated of warnings stays."""
    stated = [option.partition(":") for option in sys.warnoptions]
    errors = [bool(action) and "error".startswith(action) for action, _, _ in stated]
    if not any(errors):
        return
    calm = ["".join(("default", *each[1:]) if error else each) for each, error in zip(stated, errors, strict=True)]
    os.environ["PYTHONWARNINGS"] = ",".join(option for option in calm if "," not in option)
    filters = warnings.filters  # in the order in which they are asked, which no other call keeps
    for place, (action, *rest) in enumerate(list(filters)):
        if action == "error":
            filters[place] = ("default", *rest)  # type: ignore[index]
    warnings.simplefilter("default", append=True)  # Python looks at them anew


def _end(number: int, frame: FrameType | None) -> None:
    """Unwind, so that programs that were started, which lead groups of their own, end too."""
    sys.exit(128 + number)


def report(error: Exception) -> int:
    """Show an error as its one line and hint; returns the exit code."""
    known = known_error(error)
    if known is not error and isinstance(known, ExtraNotInstalled):
        known.hint = make_hint(sys.argv[1:])
    if os.environ.get("KBUILD_DEBUG"):
        traceback.print_exception(error)
    # Names of files and texts of servers stand in it.
    message = plain(f"error: {' '.join(known.message.splitlines())}")
    click.echo(folded(message, sys.stderr, indent=_BELOW), err=True)
    if known.hint:
        click.echo(folded(plain(f"  {known.hint}"), sys.stderr, indent=_BELOW), err=True)
    more = more_about(known.message, known.exit_code)
    if more is not None:
        click.echo(f"  more: kbuild help {more}", err=True)
    return known.exit_code
