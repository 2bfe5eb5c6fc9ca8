"""``kbuild score``."""

from __future__ import annotations

import json
from typing import Any

import click

from kbuild.api.packing import ScoreOptions, score
from kbuild.cli.options import base_option, complete_model, json_option, lock_options, open_here
from kbuild.cli.show import Show
from kbuild.progress import how_many


def _read_params(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text} is not a JSON object")
    return found


def _read_settings(texts: tuple[str, ...]) -> dict[str, str]:
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise click.BadParameter(f"{wrong[0]} is not NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


@click.command("score")
@click.argument("model", shell_complete=complete_model)
@click.argument("input", metavar="IN")
@click.argument("output", metavar="OUT")
@click.option("--workers", "-j", type=click.IntRange(1, 256), help="Processes.  [default: one a processor]")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "null", "reject"]),
    default="fail",
    show_default=True,
    help="What becomes of a row that the model does not answer: stop, write it without an answer, or leave it out.",
)
@click.option(
    "--keep", metavar="COLUMNS", default="all", show_default=True, help="Of IN beside the answer: all, none, or a,b."
)
@click.option("--format", type=click.Choice(["parquet", "csv"]), help="Of OUT.  [default: as IN]")
@click.option("--params", metavar="JSON", callback=_read_params, help="Parameters of the model, as a JSON object.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier batch wrote to OUT.")
@click.option("--part-rows", type=click.IntRange(1), help="Rows that are one piece of work.  [default: 250000]")
@click.option("--batch-rows", type=click.IntRange(1), help="Rows that the model is asked at once.  [default: 50000]")
@click.option("--spark", metavar="MASTER", help="Score on this cluster, such as spark://HOST:7077.")
@click.option(
    "--spark-conf",
    "spark_settings",
    metavar="NAME=VALUE",
    multiple=True,
    callback=lambda _context, _option, texts: _read_settings(texts),
    help="A setting of Spark's; repeat.",
)
@base_option
@lock_options
@json_option
def command(model: str, input: str, output: str, as_json: bool, **stated: Any) -> None:
    """Score the tables of IN with MODEL exactly as it is served, into OUT, and print OUT.

    IN is a Parquet or CSV file, a folder of them, a pattern in quotes, a Delta or Iceberg table (a folder, or
    iceberg://CATALOG/NAMESPACE.TABLE), or a url, as far as the model's packages can read it; OUT a folder, or one file
    that ends with .parquet or .csv. The archive of "kbuild pack" does the work, with its own Python. Memory does not
    grow with the table. The same command goes on where it was stopped, if model, input and options are the same; beside
    the answers lie a manifest, and the rows without an answer with their reasons.
    """
    if stated["spark"] is not None and stated["workers"] is not None:
        raise click.UsageError("--workers is of this machine; of a cluster it is --spark-conf spark.executor.cores=N")
    show = Show()
    manifest = score(model, input, output, ScoreOptions(**stated), session=open_here(show))
    for reason, count in list(manifest["reasons"].items())[:5]:
        show.complain(f"{how_many(count, 'row')}: {reason}", style="yellow")
    if manifest.get("rejected"):
        show.say(f"each of these rows with its reason: {_rejected_in(output, manifest['rejected'])}")
    click.echo(json.dumps(manifest | {"seconds": show.seconds}) if as_json else output)


def _rejected_in(output: str, named: str) -> str:
    """Where the rows without an answer are: in the folder of the answers, or beside the one file that they are."""
    beside = named.endswith(".jsonl")
    return (output[: output.rfind("/") + 1] if beside else f"{output.rstrip('/')}/") + named
