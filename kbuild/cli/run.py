"""``kbuild run``."""

from __future__ import annotations

import errno
import shlex
import signal
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click

from kbuild.api.find import found_image
from kbuild.cache.folder import using_cache
from kbuild.cli.config import env_option
from kbuild.cli.options import image_argument, make_tools, platform_option
from kbuild.cli.show import Show
from kbuild.errors import ContainerFailed
from kbuild.image.run.running import RunningImage
from kbuild.image.run.start import start_image
from kbuild.platform import Platform
from kbuild.process import start
from kbuild.verify.scoring import wait_until_ready
from kbuild.verify.verify_image import read_example
from kbuild.workflow.demo import REQUEST_NAME

_LONGEST_LINE = 300  # characters of a request that are still shown in the line to type


@click.command("run")
@image_argument
@click.option("--port", "-p", type=click.IntRange(1, 65535), help="Port on 127.0.0.1.  [default: a free one]")
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds to get ready.")
@platform_option
@env_option
def command(image: str | None, port: int | None, timeout: float, platform: Platform | None) -> None:
    """Serve IMAGE on this machine until Ctrl-C; print its url when it is ready.

    IMAGE is a name or digest that "kbuild image" printed, here or in a registry, an OCI layout, its tar, or a model
    (built first if need be). Without one it is the image of the newest trained run.
    Docker runs it where there is one, else namespaces do (bubblewrap or unshare; KBUILD_RUNTIME chooses).
    """
    if port is not None:
        _check_free(port)
    show = Show()
    tools, config = make_tools(show)
    with ExitStack() as working, tempfile.TemporaryDirectory() as folder:
        working.enter_context(using_cache(tools.cache, limit=tools.cache_limit))
        with found_image(image, tools, config, show, platform) as (built, reference):
            if port is not None:
                _check_free(port)
            with show("start") as progress:
                running = start_image(
                    built,
                    port=port,
                    environment={},
                    cache=tools.cache,
                    log=Path(folder) / "log",
                    run=tools.run,
                    start=start,
                    progress=progress,
                )
                try:
                    wait_until_ready(running, timeout=timeout, progress=progress)
                    progress.made("ready")
                    # From here on; until it is ready a signal ends the command as it ends any other.
                    stopped = _Stopped()
                except BaseException:
                    running.stop()
                    raise
            try:
                click.echo(running.url)
                working.close()  # what runs needs its own files alone, which are held for it
                show.say(f"{running.describe()} serves {reference.familiar}; Ctrl-C stops it")
                for line in _how_to_ask(running, Path(folder) / REQUEST_NAME):
                    show.say(line)
                while not stopped.asked:
                    if not running.alive():
                        raise ContainerFailed(f"the image stopped by itself: {running.logs()[-500:].strip()}")
                    time.sleep(0.2)
            finally:
                running.stop()


def _how_to_ask(running: RunningImage, file: Path) -> list[str]:
    """What to type, with the model's own example; a long one is written to ``file``."""
    example = read_example(running)
    if example is None:
        return ["the model was logged without an example to ask it with"]
    text = example.decode("utf-8").strip()
    if len(text) > _LONGEST_LINE or "\n" in text:
        file.write_bytes(example)
        text = f"@{file}"
    return [
        "ask it, with the model's own example, in another terminal:",
        f"  curl -H 'Content-Type: application/json' -d {shlex.quote(text)} {running.url}/invocations",
    ]


def _check_free(port: int) -> None:
    """Another server on that port would be taken for the image when it answers that it is ready."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        # Ports that only root may have are Docker's to open, or to refuse.
        if error.errno == errno.EADDRINUSE:
            raise ContainerFailed(
                f"port {port} of 127.0.0.1 is taken by another server",
                hint="name another one with --port, or none to get a free one",
            ) from error


class _Stopped:
    """Turns SIGTERM and SIGINT into a flag, so that the image is stopped and not left behind."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
