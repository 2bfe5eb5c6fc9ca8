"""Showing progress on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from kbuild.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

# What makes rich take any stream for a terminal.
_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


class Show:
    """Opens one phase after another and remembers how many seconds each took."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._quiet = quiet
        self._console = None if quiet else _terminal()

    def say(self, text: str, *, style: str | None = None) -> None:
        """One line on stderr."""
        if self._console is not None:
            self._console.print(text, style=style, markup=False)
        elif not self._quiet:
            click.echo(text, err=True)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        """Show ``phase`` until the block ends; a second block of one name adds to its seconds."""
        begin = time.monotonic()
        if self._console is not None and self._console.is_terminal:
            with _live(self._console, phase) as progress:
                yield progress
        else:
            yield _Plain(self.say, phase)
        took = time.monotonic() - begin
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + took, 3)
        self.say(f"{phase:<9} done in {took:.1f} s")


def _terminal() -> Console | None:
    """Where lines may be drawn over, None for a file or pipe, which is most runs in CI and needs no rich."""
    if not sys.stderr.isatty() and not any(os.environ.get(name) for name in _FORCED):
        return None
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def _live(console: Console, phase: str) -> Iterator[Progress]:
    from rich.progress import Progress as RichProgress
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[phase]:<9}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TextColumn("{task.description}", markup=False),
    )
    with RichProgress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, phase=phase, amount="")
        yield _Live(bar, int(task))


class _Live:
    def __init__(self, bar: RichProgress, task: int) -> None:
        self._bar, self._task = bar, task

    def note(self, text: str) -> None:
        from rich.progress import TaskID

        self._bar.update(TaskID(self._task), description=text[:100])

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        from rich.progress import TaskID

        self._bar.update(TaskID(self._task), amount=amount(done, total, unit))


class _Plain:
    """Every note is a line; counts only when a phase has said nothing for a while."""

    _SILENCE = 10.0

    def __init__(self, say: Callable[[str], None], phase: str) -> None:
        self._say, self._phase, self._spoke = say, phase, time.monotonic()

    def note(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._say(f"{self._phase:<9} {text}")

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        if time.monotonic() - self._spoke >= self._SILENCE:
            self.note(amount(done, total, unit))


def amount(done: int, total: int | None, unit: str) -> str:
    """``12.3/250.1 MB`` or ``3/110 packages``."""
    if unit == "bytes":
        return f"{done / 1e6:.1f}/{total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    return f"{done}/{total} {unit}" if total else f"{done} {unit}"
