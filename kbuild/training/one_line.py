"""Errors of kbuild as Kedro's command line shows them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from kbuild.docs import more_about
from kbuild.errors import KbuildError
from kbuild.untrusted import folded


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Let Kedro's command line show an error as its one line and hint, with its exit code, and no traceback."""
    try:
        yield
    except KbuildError as error:
        kind = type(type(error).__name__, (type(error), _CommandLineError), {})
        shown = kind(error.message, hint=error.hint)
        raise shown.with_traceback(error.__traceback__) from error.__cause__


class _CommandLineError(click.ClickException):
    hint: str | None

    def format_message(self) -> str:
        more = more_about(self.message, self.exit_code)
        lines = (
            folded(self.message, sys.stderr, indent=2, first=len("Error: ")),
            *((folded(f"Hint: {self.hint}", sys.stderr, indent=2),) if self.hint is not None else ()),
            *((f"More: kbuild help {more}",) if more is not None else ()),
        )
        return "\n".join(lines)
