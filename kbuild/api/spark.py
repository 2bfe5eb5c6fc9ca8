"""A model as a function of Spark's columns, for jobs of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kbuild.api.request import BuildOptions, make_image_request
from kbuild.api.session import Session, open_session, take_model
from kbuild.errors import ConfigurationError, ExtraNotInstalled, InvalidModel
from kbuild.files import link_or_copy
from kbuild.image.engines.archive import PYTHON
from kbuild.offered.given import take_either
from kbuild.workflow.batch.packing import unpacked_model

_TYPES = {
    "double": "double",
    "float": "float",
    "long": "bigint",
    "integer": "int",
    "boolean": "boolean",
    "string": "string",
    "binary": "binary",
    "datetime": "timestamp_ntz",
}


@take_either
def spark_udf(
    spark: Any,
    model: str | None = None,
    options: BuildOptions | None = None,
    *,
    on_error: str = "fail",
    session: Session | None = None,
) -> Callable[..., Any]:
    """A function of columns of a Spark table that answers with a struct of the model's outputs.

    ``spark`` is a SparkSession (not of Spark Connect), ``model`` what ``build_image`` takes. Without columns the
    function takes those that the model reads. Executors get the model's archive and answer with its own Python; this
    process and Spark must have a version of PySpark that runs in it. With ``on_error="null"`` a row without an answer
    is answered with nothing. Raises ExtraNotInstalled, ConfigurationError, and what ``kbuild pack`` ends with.
    """
    try:
        from pyspark import SparkFiles
        from pyspark.sql.functions import col, pandas_udf, struct
    except ImportError as error:
        raise ExtraNotInstalled("PySpark is not installed", hint="pip install 'kbuild[spark]'") from error
    if on_error not in ("fail", "null"):
        raise ConfigurationError(f"on_error={on_error!r} is neither fail nor null")
    if not hasattr(spark, "_jsparkSession"):
        raise ConfigurationError("a session of Spark Connect cannot send archives", hint="use one with a master")
    from kbuild.scoring import udf

    session = session or open_session()
    taken = take_model(model, session)
    request = make_image_request(session.config, taken, options=options)
    context = spark.sparkContext
    with unpacked_model(request, session.tools) as unpacked:
        facts = unpacked.made.prepared.bundle.facts
        archive = unpacked.archive()
        # Executors that come later ask for it too: it stays as long as Spark does.
        kept = Path(context._temp_dir, archive.name)
        if not kept.exists():
            link_or_copy(archive, kept)
        python = unpacked.made.prepared.locked.spec.python
    inputs, outputs = (_columns(facts.signature, side) for side in ("inputs", "outputs"))
    name = f"kbuild-{kept.name[:16]}"
    context.addArchive(f"{kept}#{name}")
    top = SparkFiles.getRootDirectory() if context.master.partition("[")[0] == "local" else "."
    function = udf.answer_or_fail if on_error == "fail" else udf.answer_or_null
    returned = ", ".join(f"`{each or 'prediction'}`: {_TYPES[kind]}" for each, kind in outputs.items())
    made = pandas_udf(function, f"struct<{returned}>")
    # Spark asks each function which Python it is for when it is made; there is no other way to say it of one alone.
    before = context.pythonExec, context.pythonVer
    context.pythonExec, context.pythonVer = f"{top}/{name}/{PYTHON}", ".".join(python.split(".")[:2])
    try:
        made._unwrapped._judf  # noqa: B018
    finally:
        context.pythonExec, context.pythonVer = before

    def ask(*columns: Any) -> Any:
        return made(struct(*(columns or [col(f"`{each}`") for each in inputs])))

    return ask


def _columns(signature: Mapping[str, Any] | None, side: str) -> dict[str, str]:
    """MLflow's types by column; raises InvalidModel for what is no table of plain columns."""
    found = {each.get("name"): each.get("type") for each in (signature or {}).get(side) or []}
    if not found or not {*found.values()} <= {*_TYPES}:
        raise InvalidModel(f"the model's signature does not say its {side} as plain columns", hint="kbuild score can")
    return found
