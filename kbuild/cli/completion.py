"""``kbuild completion``, and what is offered for a model or an image."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from kbuild.cli.options import cache_folder
from kbuild.image.store.listing import ListedImage, list_here
from kbuild.plan.make import LABEL_RUN_ID

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, models and images of kbuild."""
    # Bash before 4.4 cannot, and click says so on stderr.
    click.echo(_SHELLS[shell](click.Group("kbuild"), {}, "kbuild", "_KBUILD_COMPLETE").source())


def complete_image(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names and short digests of the images that were built here."""
    return _beginning(incomplete, [(name, _about(each)) for each in _images() for name in (*each.names, _short(each))])


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``@latest``, and the runs whose images were built here: no server is waited for while somebody types."""
    newest = [("@latest", "the newest trained run"), ("@latest~1", "the one before")]
    runs = [(run, _about(each)) for each in _images() if (run := each.labels.get(LABEL_RUN_ID))]
    return _beginning(incomplete, [*newest, *dict(runs).items()])


def complete_either(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """An image or a model."""
    return [*complete_image(context, parameter, incomplete), *complete_model(context, parameter, incomplete)]


def _images() -> list[ListedImage]:
    return list_here(cache_folder() / "images")


def _short(image: ListedImage) -> str:
    return f"sha256:{image.digest.hex[:12]}"


def _about(image: ListedImage) -> str:
    return f"{', '.join(image.names) or _short(image)}, {image.size / 1e6:.0f} MB"


def _beginning(incomplete: str, offered: list[tuple[str, str]]) -> list[CompletionItem]:
    return [CompletionItem(value, help=about) for value, about in offered if value.startswith(incomplete)]
