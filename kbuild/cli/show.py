"""Showing progress on stderr: a live line on a terminal, one plain line a phase elsewhere."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from kbuild.progress import Progress
from kbuild.untrusted import fold, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

# What makes rich take any stream for a terminal.
_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
_JOB = ("CI", "TF_BUILD")  # what GitHub, GitLab and others set in theirs, and what Azure Pipelines does
_TALK = "kbuild.talk"
_USUAL = 60  # characters of a command
_SILENCE = 10.0  # seconds after which a log is told that the work goes on
SHORT = 12  # figures of a digest that name an image of this machine, as kbuild list shows them
_COLUMN = 10  # where what a phase made begins
_WORTH_TELLING = 1.0  # seconds; a phase that took less and made nothing new is not shown


class Show:
    """Opens one phase after another and remembers how many seconds each took.

    Of a phase stays one line with what it made, and what it told; ``verbose`` keeps every note, ``quiet`` nothing.
    Unless stated they are what ``-v`` and ``-q`` of the command say.
    """

    def __init__(self, *, quiet: bool | None = None, verbose: bool | None = None) -> None:
        context = click.get_current_context(silent=True)
        asked = None if context is None else context.meta.get(_TALK)
        self.seconds: dict[str, float] = {}
        self._made: dict[str, str] = {}
        self._drawn: RichProgress | None = None
        self._quiet = asked == "quiet" if quiet is None else quiet
        self._verbose = asked == "verbose" if verbose is None else verbose
        self._console = None if self._quiet else _terminal()

    def say(self, text: str, *, style: str | None = None) -> None:
        """One line on stderr; on a terminal it is broken between words, below its first word of a phase."""
        if self._console is not None:
            self._console.print(_broken(plain(text), self._console), style=style, markup=False)
        elif not self._quiet:
            click.echo(plain(text), err=True)

    def next(self, commands: Mapping[str, str]) -> None:
        """What may be typed next, with what it does; never broken, so that it can be copied. In a job nobody types."""
        if any(os.environ.get(name) for name in _JOB):
            return
        # One with a digest would send what the others do out of sight.
        width = max((len(each) for each in commands if len(each) <= _USUAL), default=0)
        lines = [f"  {command.ljust(width)}  # {does}" for command, does in commands.items()]
        if self._console is not None and max(map(len, lines)) > self._console.width:
            lines = [line for command, does in commands.items() for line in (f"  {command}", f"      # {does}")]
        for line in lines:
            if self._console is not None:
                self._console.print(line, markup=False)
            elif not self._quiet:
                click.echo(line, err=True)

    def complain(self, text: str, *, style: str = "red") -> None:
        """One line on stderr about what went wrong or was not done, which ``quiet`` does not keep back."""
        if self._console is not None:
            self._console.print(_broken(plain(text), self._console), style=style, markup=False)
        else:
            click.echo(plain(text), err=True)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        """Show ``phase`` until the block ends; a second block of one name adds to its seconds."""
        begin = time.monotonic()
        told = _Told(self.say, phase)
        if self._console is not None and self._console.is_terminal and not self._verbose:
            with self._alone(), _live(self._console, told) as (bar, progress):
                self._drawn = bar
                yield progress
        else:
            yield _Plain(told, verbose=self._verbose)
        took = time.monotonic() - begin
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + took, 3)
        # What was made is asked for again where it is needed, and then is there.
        is_new = told.result is not None and self._made.get(phase) != told.result
        if told.result is not None:
            self._made[phase] = told.result
        if is_new or took >= _WORTH_TELLING:
            self.say(f"{phase:<9} {told.result or 'done'}, {took:.1f} s")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two lines that are drawn at once leave the first of them behind: the outer phase's waits."""
        outer = self._drawn
        if outer is not None:
            outer.stop()
        try:
            yield
        finally:
            self._drawn = outer
            if outer is not None:
                outer.start()


def talk_options(command: click.Command) -> click.Command:
    """Give a command ``-q`` and ``-v``, which every ``Show`` of it heeds."""

    def choose(context: click.Context, option: click.Parameter, chosen: bool) -> None:
        if chosen:
            context.meta[_TALK] = option.name

    for name, help in (
        ("quiet", "Say nothing on stderr but errors."),
        ("verbose", "Say on stderr every step, and keep it there."),
    ):
        flags = [f"-{name[0]}", f"--{name}"]
        command.params.append(click.Option(flags, is_flag=True, expose_value=False, callback=choose, help=help))
    return command


def _terminal() -> Console | None:
    """Where lines may be drawn over, None for a file or pipe, which is most runs in CI and needs no rich."""
    if not sys.stderr.isatty() and not any(os.environ.get(name) for name in _FORCED):
        return None
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def _live(console: Console, told: _Told) -> Iterator[tuple[RichProgress, Progress]]:
    from rich.progress import Progress as RichProgress
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    # A long note alone is cut: without widths of their own, rich takes its room from the columns before it.
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[phase]}", markup=False, table_column=Column(no_wrap=True, min_width=_COLUMN - 1)),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=len("0:00:00"))),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
    )
    with RichProgress(*columns, console=console, transient=True, expand=True) as bar:
        task = bar.add_task("", total=None, phase=told.phase)
        yield bar, _Live(bar, int(task), told)


def _broken(text: str, console: Console) -> str:
    """A line that is longer than the terminal as several; what follows the name of a phase stays below itself."""
    if not console.is_terminal or text.startswith(" ") or "\n" in text:
        return text
    indent = _COLUMN if re.fullmatch(r"\S+ +", text[:_COLUMN]) else 2
    return fold(text, console.width, indent=indent)


class _Told:
    """What stays of a phase."""

    def __init__(self, say: Callable[[str], None], phase: str) -> None:
        self.say, self.phase = say, phase
        self.result: str | None = None

    def tell(self, text: str) -> None:
        self.say(f"{self.phase:<9} {text}")


class _Live:
    def __init__(self, bar: RichProgress, task: int, told: _Told) -> None:
        self._bar, self._task, self._told = bar, task, told
        self._doing = ""

    def note(self, text: str) -> None:
        self._doing = text
        self._draw(text)

    def tell(self, text: str) -> None:
        self._told.tell(text)

    def made(self, text: str) -> None:
        self._told.result = text

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        self._draw(counted(self._doing, done, total, unit))

    def _draw(self, text: str) -> None:
        from rich.progress import TaskID

        self._bar.update(TaskID(self._task), description=plain(text))


class _Plain:
    """For a pipe or a CI job's log: after a while of silence it says what is being done."""

    def __init__(self, told: _Told, *, verbose: bool) -> None:
        self._told, self._verbose, self._spoke = told, verbose, time.monotonic()
        self._doing = ""
        self._counting = False

    def note(self, text: str) -> None:
        is_new, self._doing = text != self._doing, text
        # Where the last note was counted, this one most likely is at once, too.
        counting, self._counting = self._counting, False
        if self._verbose or not counting:
            self._say(text, now=self._verbose and is_new)

    def tell(self, text: str) -> None:
        self._say(text, now=True)

    def made(self, text: str) -> None:
        self._told.result = text

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        self._counting = True
        self._say(counted(self._doing, done, total, unit), now=False)

    def _say(self, text: str, *, now: bool) -> None:
        if now or time.monotonic() - self._spoke >= _SILENCE:
            self._spoke = time.monotonic()
            self._told.tell(text)


def amount(done: int, total: int | None, unit: str) -> str:
    """``12.3/250.1 MB`` or ``3/110 packages``."""
    if unit == "bytes":
        return f"{done / 1e6:.1f}/{total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    return f"{done:,}/{total:,} {unit}" if total else f"{done:,} {unit}"


def counted(doing: str, done: int, total: int | None, unit: str) -> str:
    """What is being done and how far it is: ``installing 10/87 wheels`` for ``installing 87 wheels``."""
    far = amount(done, total, unit)
    for whole in (f"{total} {unit}", f"{total:,} {unit}") if total else ():
        if whole in doing:
            return doing.replace(whole, far, 1)
    return f"{doing}, {far}" if doing else far
