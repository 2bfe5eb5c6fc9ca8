"""What a run of Kedro is told beside its log."""

from __future__ import annotations

import sys

import click

from kbuild.untrusted import folded


def say(text: str) -> None:
    """On stdout, on a terminal broken between words."""
    click.echo(folded(text, sys.stdout, indent=2))


def complain(text: str) -> None:
    """On stderr."""
    click.echo(folded(text, sys.stderr, indent=2), err=True)
