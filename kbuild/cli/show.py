"""Showing progress on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from kbuild.progress import Progress


class Show:
    """Opens one phase after another and remembers how many seconds each took."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str, *, style: str | None = None) -> None:
        """One line on stderr."""
        self._console.print(text, style=style, markup=False)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        """Show ``phase`` until the block ends; a second block of one name adds to its seconds."""
        begin = time.monotonic()
        if self._console.is_terminal and not self._console.quiet:
            with self._live(phase) as progress:
                yield progress
        else:
            yield _Plain(self._console, phase)
        took = time.monotonic() - begin
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + took, 3)
        self._console.print(f"{phase:<9} done in {took:.1f} s", markup=False)

    @contextmanager
    def _live(self, phase: str) -> Iterator[Progress]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[phase]:<9}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TextColumn("{task.description}", markup=False),
        )
        with RichProgress(*columns, console=self._console, transient=True) as bar:
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

    def __init__(self, console: Console, phase: str) -> None:
        self._console, self._phase, self._spoke = console, phase, time.monotonic()

    def note(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(f"{self._phase:<9} {text}", markup=False)

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        if time.monotonic() - self._spoke >= self._SILENCE:
            self.note(amount(done, total, unit))


def amount(done: int, total: int | None, unit: str) -> str:
    """``12.3/250.1 MB`` or ``3/110 packages``."""
    if unit == "bytes":
        return f"{done / 1e6:.1f}/{total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    return f"{done}/{total} {unit}" if total else f"{done} {unit}"
