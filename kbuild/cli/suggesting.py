"""Groups of commands that answer a wrong one with those there are; imports nothing that ``kedro`` would wait for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

import click

_NO_CHOICE = re.compile(r"(['\"])(.*?)\1 is not one of ")
_NO_NUMBER = re.compile(r"is not a valid (integer|float)(?: range)?")
_NUMBERS = {"integer": "whole number", "float": "number"}
# What other programs call it.
_MEANT = {
    "serve": "run",
    "start": "run",
    "push": "image",
    "ls": "list",
    "show": "inspect",
    "scan": "audit",
    "sbom": "audit",
}
_MEANING = "Did you mean"  # said once, by the innermost of groups
_FEW = 10  # commands that are told one after the other


class Suggesting(click.Group):
    """A group that answers a wrong command, option or value with those that there are."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, and with the command that may have been meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise _suggest(error, args[0], self.list_commands(ctx), ctx) from error

    def invoke(self, ctx: click.Context) -> object:
        """As click does, and with what may have been meant."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _suggest_choice(error) from error
        except click.BadParameter as error:
            kind = None if error.param is None else error.param.type
            message = _name_value(error.message, kind)
            if message == error.message:
                raise
            raise click.BadParameter(message, error.ctx, error.param, error.param_hint) from error


def _suggest_choice(error: click.NoSuchOption) -> click.UsageError:
    """``--html`` of what has ``--format html`` is told so."""
    wanted = error.option_name.lstrip("-")
    for param in error.ctx.command.params if error.ctx is not None else ():
        if isinstance(param, click.Option) and isinstance(param.type, click.Choice) and wanted in param.type.choices:
            message = f"No such option '{error.option_name}'. Did you mean '{param.opts[0]} {wanted}'?"
            return click.UsageError(message, error.ctx)
    return error


def _name_value(message: str, kind: object) -> str:
    """What click says of a wrong value in the words of whoever typed it, with the choice that comes nearest."""
    if isinstance(kind, click.Choice) and (typed := _NO_CHOICE.match(message)) and _MEANING not in message:
        nearest = get_close_matches(typed[2], [str(each) for each in kind.choices], n=1)
        return f"{message} {_MEANING} '{nearest[0]}'?" if nearest else message
    return _NO_NUMBER.sub(lambda found: f"is not a {_NUMBERS[found[1]]}", message)


def _suggest(error: click.UsageError, typed: str, known: Iterable[str], ctx: click.Context) -> click.UsageError:
    """The error with the command that may have been meant, or with those that there are."""
    known = sorted(known)
    nearest = [_MEANT[typed]] if _MEANT.get(typed) in known else get_close_matches(typed, known, n=1)
    if not nearest and len(known) > _FEW:
        return error
    told = f"Did you mean {nearest[0]}?" if nearest else f"There are {', '.join(known)}."
    message = f"{error.message.rstrip('.')}. {told}"
    return click.UsageError(message, ctx)
