"""``kbuild run``."""

from __future__ import annotations

import os
import re
import shlex
import signal
import tempfile
import textwrap
import time
from pathlib import Path
from types import FrameType

import click

from kbuild.api.running import RunOptions, run
from kbuild.cli.config import env_option
from kbuild.cli.options import image_argument, open_here, platform_option
from kbuild.cli.show import Show
from kbuild.errors import ContainerFailed
from kbuild.image.run.running import RunningImage
from kbuild.platform import Platform
from kbuild.verify.verify_image import read_example
from kbuild.workflow.demo import REQUEST_NAME

_LONGEST = 300  # characters of a request that are still shown in what to type
_WIDTH = 74  # columns of a line of it, before its indent and after it
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')  # of JSON, RFC 8259 section 7
_GLUE = "\0"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Where it listens is this command's to say, and that it is ready is asked without TLS.
_OWN = {
    **dict.fromkeys(("KBUILD_HOST", "KBUILD_PORT", "AIP_HTTP_PORT", "PORT"), "is for --port to say"),
    **dict.fromkeys(("KBUILD_TLS_CERT", "KBUILD_TLS_KEY"), "is not for 127.0.0.1: docker run -e has it"),
}


def _read_variables(texts: tuple[str, ...]) -> dict[str, str]:
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise click.BadParameter(f"{text!r} names no variable; write NAME=VALUE, or NAME for that of this shell")
        if name in _OWN:
            raise click.BadParameter(f"{name} {_OWN[name]}")
        if not equals and name not in os.environ:
            raise click.BadParameter(f"{name} is not set here; write {name}=VALUE")
        given[name] = value if equals else os.environ[name]
    return given


@click.command("run")
@image_argument
@click.option("--port", "-p", type=click.IntRange(1, 65535), help="Port on 127.0.0.1.  [default: a free one]")
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds to get ready.")
@click.option(
    "--variable",
    "variables",
    metavar="NAME[=VALUE]",
    multiple=True,
    callback=lambda _context, _option, texts: _read_variables(texts),
    help="A variable of the server or the model (kbuild help serving), NAME alone with this shell's value; repeat.",
)
@platform_option
@env_option
def command(
    image: str | None, port: int | None, timeout: float, variables: dict[str, str], platform: Platform | None
) -> None:
    """Serve IMAGE on this machine until Ctrl-C; print its url when it is ready.

    IMAGE is a name or digest that "kbuild image" printed, here or in a registry, an OCI layout, its tar, or a model
    (built first if need be). Without one it is the image of the newest trained run.
    Docker runs it where there is one, else namespaces do (bubblewrap or unshare; KBUILD_RUNTIME chooses). Of this
    shell's variables the server gets those that --variable names.
    """
    show = Show()
    asked = RunOptions(port=port, timeout=timeout, platform=platform, variables=variables)
    with tempfile.TemporaryDirectory() as folder, run(image, asked, session=open_here(show)) as client:
        # From here on; until it is ready a signal ends the command as it ends any other.
        stopped = _Stopped()
        click.echo(client.url)
        show.say(f"{client.running.describe()} serves {client.reference.familiar}; Ctrl-C stops it")
        for line in _how_to_ask(client.running, Path(folder) / REQUEST_NAME, token="KBUILD_TOKEN" in variables):
            show.say(line)
        show.say(f"what the server writes: {client.running.log_command()}")
        while not stopped.asked:
            if not client.running.alive():
                raise ContainerFailed(f"the image stopped by itself: {client.running.logs()[-500:].strip()}")
            time.sleep(0.2)


def _how_to_ask(running: RunningImage, file: Path, *, token: bool = False) -> list[str]:
    """What to type, with the model's own example; a long one is written to ``file``."""
    example = read_example(running)
    if example is None:
        return ["the model was logged without an example to ask it with"]
    text = example.decode("utf-8").strip()
    data = _data_lines(text)
    if len(text) > _LONGEST or "\n" in text:
        file.write_bytes(example)
        data = [f"-d @{shlex.quote(str(file))}"]
    return [
        f"try it in a browser: {running.url}/, and {running.url}/docs for programs",
        "ask it, with the model's own example, in another terminal:",
        "  curl -H 'Content-Type: application/json' \\",
        *(['    -H "Authorization: Bearer $KBUILD_TOKEN" \\'] if token else []),
        *(f"    {line}" for line in data[:-1]),
        f"    {data[-1]} \\",
        f"    {running.url}/invocations",
    ]


def _data_lines(text: str) -> list[str]:
    """curl's option for JSON, in lines of a terminal: where JSON has a space between values it may have a line feed."""
    glued = _TEXT.sub(lambda found: found[0].replace(" ", _GLUE), text)
    lines = textwrap.wrap(f"-d {shlex.quote(glued)}", _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_GLUE, " ") for line in lines]


class _Stopped:
    """Turns SIGTERM and SIGINT into a flag, so that the image is stopped and not left behind."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
