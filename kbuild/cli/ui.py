"""``kedro kbuild ui``: MLflow's own pages of the store that this project's runs are in."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

import click

from kbuild.api.project import tracking_uri
from kbuild.cli.config import env_option, project_config
from kbuild.errors import TrackingUnavailable
from kbuild.process.foreground import stay
from kbuild.tracking.preflight import without_userinfo

_DATABASE = "sqlite:///"


@click.command("ui")
@click.option("--port", "-p", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port to listen on.")
@click.option("--host", "-h", default="127.0.0.1", show_default=True, help="Address to listen on.")
@env_option
def command(port: int, host: str) -> None:
    """Open MLflow's UI on the store that this project's runs are in.

    Where that is a tracking server, its own pages are opened in the browser.
    """
    start = Path.cwd()
    uri = tracking_uri(project_config(), start)
    if uri.startswith(("http://", "https://")):
        click.echo(without_userinfo(uri))
        webbrowser.open(without_userinfo(uri))
        return
    database = Path(uri.removeprefix(_DATABASE))
    if uri.startswith(_DATABASE) and not database.is_file():
        # MLflow would make an empty one, and show that.
        raise TrackingUnavailable(f"there are no runs yet: {database} is not there", hint="kedro run")
    words = ["-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    # Its job runners, of no use to who looks at runs, are processes that live on when it has ended.
    env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    code = stay([sys.executable, *words], env=env)
    click.get_current_context().exit(max(code, 0))  # negative: by the signal that was to end it
