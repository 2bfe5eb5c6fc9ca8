"""Groups of commands that answer a wrong one with those there are; imports nothing that ``kedro`` would wait for."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import click

_FEW = 10  # commands that are told one after the other


class Suggesting(click.Group):
    """A group that answers a wrong command with those that there are."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, and with the command that may have been meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise _suggest(error, args[0], self.list_commands(ctx), ctx) from error


def _suggest(error: click.UsageError, typed: str, known: Iterable[str], ctx: click.Context) -> click.UsageError:
    """The error with the command that may have been meant, or with those that there are."""
    known = sorted(known)
    nearest = get_close_matches(typed, known, n=1)
    if not nearest and len(known) > _FEW:
        return error
    told = f"Did you mean {nearest[0]}?" if nearest else f"There are {', '.join(known)}."
    message = f"{error.message.rstrip('.')}. {told}"
    return click.UsageError(message, ctx)
