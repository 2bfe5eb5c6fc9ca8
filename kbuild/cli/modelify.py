"""``kedro kbuild modelify``: only a Kedro project has pipelines to log, so ``kbuild`` itself has no such command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kbuild.errors import ConfigurationError
from kbuild.project.config import find_project
from kbuild.recording.modelify import ModelifyRequest, modelify

_FILE = click.Path(exists=True, dir_okay=False)


@click.command("modelify", short_help="Log a pipeline as a model without training.")
@click.option("--pipeline", "-p", required=True, help="The registered inference pipeline.")
@click.option("--input-name", "-i", required=True, help="Its input that a request brings.")
@click.option("--training", help="The registered training pipeline that makes its other inputs.")
@click.option("--env", "-e", help="Kedro's configuration environment.")
@click.option("--model-name", help="Name of the model in its run.  [default: model]")
@click.option("--registered-model-name", help="Also register it under this name.")
@click.option("--await-registration-for", type=click.IntRange(min=0), help="Seconds to wait for that.")
@click.option(
    "--infer-signature/--no-infer-signature", default=None, help="From the input's data in the catalog.  [default: on]"
)
@click.option("--infer-input-example/--no-infer-input-example", default=None, help="From that data too.  [default: on]")
@click.option("--copy-mode", help="assign, copy or deepcopy, or JSON with one for each dataset.  [default: assign]")
@click.option("--code-paths", multiple=True, type=click.Path(exists=True), help="Further code for the model; repeat.")
@click.option("--conda-env", type=_FILE, help="A conda.yaml instead of what the model is seen to need.")
@click.option("--pip-requirements", type=_FILE, help="A requirements.txt, likewise.")
@click.option("--extra-pip-requirements", type=_FILE, help="A requirements.txt, in addition.")
def command(
    pipeline: str,
    input_name: str,
    training: str | None,
    env: str | None,
    infer_signature: bool | None,
    infer_input_example: bool | None,
    copy_mode: str | None,
    model_name: str | None,
    **options: Any,
) -> None:
    """Log registered pipelines as a model without training, from what the catalog holds now; print its uri.

    The model is checked as after a training run.
    """
    # Only what was said: a registered PipelineML of these two pipelines may have said the rest.
    log_model_kwargs = {
        name: value for name, value in {"name": model_name, **options}.items() if value not in (None, "", ())
    }
    if "code_paths" in log_model_kwargs:
        log_model_kwargs["code_paths"] = list(log_model_kwargs["code_paths"])
    if infer_signature is not None:
        log_model_kwargs["signature"] = "auto" if infer_signature else None
    if infer_input_example is not None or infer_signature is False:
        log_model_kwargs["input_example"] = "auto" if infer_input_example else False
    recorded = modelify(
        ModelifyRequest(
            inference=pipeline,
            input_name=input_name,
            training=training,
            kpm_kwargs={} if copy_mode is None else {"copy_mode": _parse_copy_mode(copy_mode)},
            log_model_kwargs=log_model_kwargs,
        ),
        find_project(Path.cwd()) or Path.cwd(),
        env,
    )
    click.echo(f"logged model {recorded.name!r} in run {recorded.run_id}", err=True)
    for note in recorded.notes:
        click.echo(note, err=True)
    click.echo(recorded.model_uri)


def _parse_copy_mode(text: str) -> Any:
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"--copy-mode is not JSON: {error}") from error
