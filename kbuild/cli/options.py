"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kbuild.api import session
from kbuild.api.session import Session
from kbuild.cli.config import env_option, project_config
from kbuild.cli.show import Show
from kbuild.plan.render import DEFAULT_INSTALL_BASE
from kbuild.platform import Platform

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
        from kbuild.cli import completion

        offered: list[Any] = getattr(completion, f"complete_{kind}")(context, parameter, incomplete)
        return offered

    return complete


complete_image, complete_model, complete_either = map(_complete, ("image", "model", "either"))
optional_model_argument = click.argument("model", metavar="[MODEL]", required=False, shell_complete=complete_model)
image_argument = click.argument("image", metavar="[IMAGE]", required=False, shell_complete=complete_image)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "native", "buildkit"]),
    default="auto",
    show_default=True,
    help="What builds: native needs no daemon, buildkit is docker buildx.",
)


compression_option = click.option(
    "--compression",
    type=click.Choice(["zstd", "gzip"]),
    help="How layers are packed; gzip for what knows no zstd, such as Docker before 23.  [default: zstd]",
)


def _read_platform(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> Platform | None:
    if len(texts) > 1:
        raise click.BadParameter(f"{' and '.join(texts)} are several, and one image is asked for")
    return Platform.parse(texts[0]) if texts else None


platform_option = click.option(
    "--platform",
    metavar="OS/ARCH",
    multiple=True,
    callback=_read_platform,
    help="Of an image index, the image for it.  [default: this machine's]",
)


queue_option = click.option(
    "--queue",
    metavar="URL",
    help="The queue's PostgreSQL, such as postgresql://user@host/database.  [default: KBUILD_QUEUE]",
)


def lock_options(command: _Command) -> _Command:
    """Add what decides the lock."""
    for option in (
        click.option(
            "--interpreter",
            type=click.Choice(["auto", "conda", "captured"]),
            help="Where Python comes from: a conda channel, or the one running here, packaged. [default: auto]",
        ),
        click.option("--channel", "channels", multiple=True, help="Conda channel instead of the model's own; repeat."),
        click.option(
            "--platform",
            metavar="OS/ARCH,…",
            multiple=True,
            callback=lambda _context, _option, texts: ",".join(texts) if texts else None,
            help="linux/amd64, linux/arm64 (for conda linux-64, linux-aarch64) or both with a comma: one lock, and an "
            "image index.  [default: this machine's]",
        ),
        click.option(
            "--lockfile", type=click.Path(path_type=Path), help="Use this conda-lock.yml; stop if it is stale."
        ),
        click.option(
            "--allow-sdist",
            is_flag=True,
            help="Build the wheel of a package that has none, apart from all else; that very wheel is locked.",
        ),
        click.option("--locked", is_flag=True, help="Never resolve: stop unless a fresh lock is there."),
        env_option,
    ):
        command = option(command)
    return command


def base_option(command: _Command) -> _Command:
    """Add the base that the image stands on."""
    text = "name@sha256:…, an OCI layout, or debian:SUITE.  [default: this machine's suite]"
    return click.option("--base", help=text)(command)


def build_options(command: _Command) -> _Command:
    """Add what decides the image."""
    for option in (
        base_option,
        click.option(
            "--allow-unsigned-base",
            is_flag=True,
            envvar="KBUILD_ALLOW_UNSIGNED_BASE",
            help="Take Debian's package lists also where their signature cannot be checked; the image says so.",
        ),
        click.option(
            "--template",
            metavar="NAME|FILE",
            help="copy: packages are put in place here and copied; in-container: they are installed in a stage of the "
            "builder's own; or your own Dockerfile template.  [default: copy]",
        ),
        click.option(
            "--install-base",
            metavar="IMAGE",
            envvar="KBUILD_INSTALL_BASE",
            help="With --template in-container: an image with Python 3.11 or newer to install in, in a registry or an "
            f"OCI layout.  [default: {DEFAULT_INSTALL_BASE}]",
        ),
        click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Image label; repeat."),
        click.option(
            "--slim",
            is_flag=True,
            help="Leave out what only MLflow or developers ask for and this model never reads; its code is run to see.",
        ),
    ):
        command = option(command)
    return lock_options(command)


def builder_options(command: _Command) -> _Command:
    """Add where BuildKit runs."""
    for option in (
        click.option(
            "--network",
            type=click.Choice(["default", "host", "none"]),
            envvar="KBUILD_BUILD_NETWORK",
            help="What RUN steps of the Dockerfile reach; the builder has to allow host.",
        ),
        click.option(
            "--builder",
            "builders",
            multiple=True,
            metavar="NAME",
            callback=lambda context, parameter, values: _split(values),
            help="Builder of docker buildx that builds; for many models several: repeat, or a,b.",
        ),
    ):
        command = option(command)
    return command


def cache_options(command: _Command) -> _Command:
    """Add where builders share layers."""
    for option in (
        click.option(
            "--cache-to",
            metavar="REGISTRY/NAME",
            envvar="KBUILD_CACHE_TO",
            help="Give the layers of its environment to this repository, for builders with the same KBUILD_CACHE_KEY.",
        ),
        click.option(
            "--cache-from",
            metavar="REGISTRY/NAME",
            envvar="KBUILD_CACHE_FROM",
            help="Take layers that another builder gave there; what this KBUILD_CACHE_KEY does not vouch for is made.",
        ),
    ):
        command = option(command)
    return command


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    names = (name.strip() for value in values for name in value.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def open_here(show: Show) -> Session:
    """A session for the folder the command was started in."""
    config = project_config()
    return Session(config=config, tools=session.make_tools(config, show), voice=show)


def cache_folder() -> Path:
    """See ``session.cache_folder``; tells on stderr."""
    return session.cache_folder(lambda text: click.echo(text, err=True))


class OfOneModel(click.Command):
    """Whoever names a second model is told how several are named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if type(error) is not click.UsageError or "extra argument" not in error.message:
                raise
            text = "image takes one MODEL: several are lines of --from-file FILE (- is stdin), or --all-registered"
            raise click.UsageError(text, ctx) from error
