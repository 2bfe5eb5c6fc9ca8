"""``kbuild demo``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from kbuild.api.project import ProjectConfig
from kbuild.api.request import make_image_request
from kbuild.api.session import cache_limit
from kbuild.cli.extras import check_extra
from kbuild.cli.options import cache_folder, engine_option, json_option
from kbuild.cli.show import Show
from kbuild.model.fetch import MlflowStore
from kbuild.model.shorthand import SHORT_ID
from kbuild.process import run
from kbuild.workflow import Tools
from kbuild.workflow.demo import IMAGE, REQUEST_NAME, DemoResult, run_demo


@click.command("demo")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("kbuild-demo"),
    show_default=True,
    help="Where the project and its MLflow store are kept.",
)
@engine_option
@json_option
def command(folder: Path, engine: str, as_json: bool) -> None:
    """Train the shipped project, build the image of its model, run it and compare its prediction with training's."""
    check_extra("demo", run=run)
    show = Show()
    folder = folder.absolute()
    config = ProjectConfig(root=folder)
    show.say("kbuild demo: a Kedro pipeline is trained, and exactly that model is served from an image")

    def make_tools(project: Path) -> Tools:
        # The store that the project's training hook writes to.
        uri = f"sqlite:///{project / 'mlflow.db'}"
        store = MlflowStore(tracking_uri=uri, registry_uri=uri)
        return Tools(store=store, run=run, cache=cache_folder(), cache_limit=cache_limit(), phases=show)

    result = run_demo(folder, lambda run_id: make_image_request(config, run_id, engine), make_tools)
    _tell(show, result)
    if as_json:
        click.echo(json.dumps(_to_json(result, show.seconds)))
    else:
        click.echo(result.image.reference)
        click.echo(json.dumps(result.prediction))


def _tell(show: Show, result: DemoResult) -> None:
    size = result.image.image.size / 1e6
    kbuild = _program()
    show.say("")
    show.say(f"{IMAGE.familiar}, {size:.0f} MB, built by the {result.image.image.engine} engine")
    show.say(f"served by {result.runtime}; its prediction equals the one recorded in training")
    show.say("")
    run_id = result.run_id[:SHORT_ID]
    show.next(
        {
            f"cd {shlex.quote(str(result.folder))}": "the project, and what it trained",
            f"{kbuild} run {IMAGE.familiar} --port 8080": "serve it; then, in another terminal in that folder:",
            f"curl -H 'Content-Type: application/json' -d @{REQUEST_NAME} http://127.0.0.1:8080/invocations": "ask it",
            f"{kbuild} lock {run_id}": "every package by url and sha256",
            f"{kbuild} render {run_id} -o context": "the Dockerfile and what it copies",
        }
    )


def _program() -> str:
    """What to type for kbuild: its name where the shell finds this very one, else its path."""
    here = Path(sys.argv[0]).absolute()
    # Under nox the PATH is nox's own: the shell that the user goes on in does not find the program by its name.
    found = None if "NOX_CURRENT_SESSION" in os.environ else shutil.which("kbuild")
    return "kbuild" if here.name != "kbuild" or (found is not None and Path(found).absolute() == here) else str(here)


def _to_json(result: DemoResult, seconds: dict[str, float]) -> dict[str, object]:
    return {
        "dir": str(result.folder),
        "run_id": result.run_id,
        "image": result.image.reference,
        "digest": str(result.image.image.digest),
        "engine": result.image.image.engine,
        "prediction": result.prediction,
        "expected": result.expected,
        "seconds": seconds,
    }
