"""What a run of Kedro is told beside its log."""

from __future__ import annotations

import sys

import click

from kbuild.untrusted import folded


def say(*lines: str) -> None:
    """On stdout, on a terminal broken between words."""
    for line in lines:
        click.echo(folded(line, sys.stdout, indent=2))


def complain(text: str) -> None:
    """On stderr."""
    click.echo(folded(text, sys.stderr, indent=2), err=True)
