"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from kbuild.cache.folder import own_folder
from kbuild.cache.limit import DEFAULT_LIMIT, parse_size
from kbuild.cli.config import ProjectConfig, env_option, project_config, project_name, tracking_uri
from kbuild.cli.show import Show
from kbuild.errors import ImageNotFound, InvalidReference, ModelNotFound, TrackingUnavailable
from kbuild.files import expand_home
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.model_reference import FORMS, ModelReference
from kbuild.model.shorthand import LATEST
from kbuild.model.store import open_store
from kbuild.plan.render import DEFAULT_INSTALL_BASE
from kbuild.platform import Platform
from kbuild.process import run
from kbuild.workflow import Tools

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


platform_option = click.option(
    "--platform",
    metavar="OS/ARCH",
    callback=lambda _context, _option, text: None if text is None else Platform.parse(text),
    help="Of an image index, the image for it.  [default: this machine's]",
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


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    names = (name.strip() for value in values for name in value.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def make_tools(show: Show) -> tuple[Tools, ProjectConfig]:
    """The workflow's tools for the folder the command was started in."""
    config = project_config()
    uri = tracking_uri(config, Path.cwd())
    store = open_store(uri, os.environ.get("MLFLOW_REGISTRY_URI") or None, cache=cache_folder())
    return Tools(store=store, run=run, cache=cache_folder(), cache_limit=cache_limit(), phases=show), config


def take_model(text: str | None, tools: Tools, config: ProjectConfig, show: Show) -> str:
    """The reference that is meant: nothing is the newest trained run, and a run's name or its id's beginning will do.

    Says which run was taken. Raises InvalidReference for a text that cannot be any of these, and ModelNotFound,
    AmbiguousModel or RunWithoutModel.
    """
    if text is not None:
        try:
            ModelReference.parse(text)
        except InvalidReference:
            if not text.strip() or ":/" in text or text.startswith("file:") or expand_home(text).is_dir():
                raise
        else:
            return text
    project = project_name(config)
    if text is None and project is None:
        # The newest of a team's whole server is most likely somebody else's.
        raise ModelNotFound("this folder is in no Kedro project, whose newest model would be taken", hint=FORMS)
    try:
        choice = tools.store.choose(LATEST if text is None else text.strip(), project=project)
    except TrackingUnavailable as error:
        if text is None or not _reads_as_image(text):
            raise
        raise ImageNotFound(
            f"{text!r} is no image built here; whether it names a run cannot be told: {error.message}", hint=error.hint
        ) from error
    if choice.foreign:
        # Whoever asks for quiet still has to know that this is not their own.
        show.complain(f"taking {choice.told}", style="yellow")
    else:
        show.say(f"taking {choice.told}")
    return choice.reference


def _reads_as_image(text: str) -> bool:
    """Whether a text has the form NAME:TAG or NAME@DIGEST of an image."""
    try:
        reference = ImageReference.parse(text)
    except InvalidReference:
        return False
    return reference.tag is not None or reference.digest is not None


def cache_folder() -> Path:
    """``KBUILD_CACHE_DIR``, else the user's cache folder; this user's own in it where others may write to that.

    Raises OutputError as ``own_folder`` does.
    """
    stated = os.environ.get("KBUILD_CACHE_DIR")
    # Without "..", but through the links that the user wants it through.
    absolute = os.path.abspath(stated) if stated else platformdirs.user_cache_dir("kbuild")  # noqa: PTH100
    folder, is_new = own_folder(Path(absolute))
    if is_new:
        click.echo(f"others may write to the cache {absolute}: kbuild keeps its files in {folder}", err=True)
    return folder


def cache_limit() -> int:
    """Bytes the cache may hold: ``KBUILD_CACHE_LIMIT``; raises ConfigurationError."""
    return parse_size(os.environ.get("KBUILD_CACHE_LIMIT") or str(DEFAULT_LIMIT))
