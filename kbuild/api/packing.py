"""A model as an archive or as an image of its files, and tables scored by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kbuild.api.request import BuildOptions, ImageOptions, make_image_request, parse_label
from kbuild.api.session import Session, open_session, take_model
from kbuild.offered.given import take_either
from kbuild.platform import Platform, host_platform
from kbuild.workflow import Delivery, check_name
from kbuild.workflow.batch.model_image import ModelImage, ModelImageRequest, build_model_image
from kbuild.workflow.batch.modelpack import ModelPack, ModelPackRequest, build_modelpack
from kbuild.workflow.batch.packing import PackResult, compression_of, pack_model
from kbuild.workflow.batch.scoring import ScoreRequest, score_tables


@take_either
def pack(
    model: str | None = None,
    output: Path = Path("model.tar.gz"),
    options: BuildOptions | None = None,
    *,
    no_cache: bool = False,
    session: Session | None = None,
) -> PackResult:
    """Write interpreter, packages, code and model as one archive, which runs wherever it is unpacked.

    ``model`` is what ``build_image`` takes; the name of ``output`` ends with .tar.gz, .tar.zst or .tar. ``no_cache``
    packs again what was packed before. Raises what ``kbuild pack`` ends with.
    """
    compression_of(output)  # before anything is asked or fetched
    session = session or open_session()
    model = take_model(model, session)
    request = make_image_request(session.config, model, options=options)
    result = pack_model(request, session.tools, output=output, reuse=not no_cache)
    if result.reused:
        session.voice.say("nothing has changed since this was packed (--no-cache packs again)")
    return result


@take_either
def image_of_files(
    model: str | None = None, options: ImageOptions | None = None, *, session: Session | None = None
) -> ModelImage:
    """Build an image that has the model's files in /models and nothing that serves them, and give it to whom
    ``options`` say: of those count ``base``, ``platform``, ``labels``, ``compression``, ``tag``, ``output``, ``load``,
    ``push`` and ``no_cache``.

    Raises what ``kbuild image --as model`` ends with.
    """
    asked = options or ImageOptions()
    session = session or open_session()
    for name in (asked.tag, asked.push):
        if name is not None:
            check_name(name)
    request = ModelImageRequest(
        model=take_model(model, session),
        platforms=Platform.parse_list(asked.platform) if asked.platform else (host_platform(),),
        base=asked.base,
        labels=(*session.config.labels, *map(parse_label, asked.labels)),
        compression=asked.compression or session.config.compression,
    )
    delivery = Delivery(tag=asked.tag, output=asked.output, load=asked.load, push=asked.push, record=False)
    return build_model_image(request, delivery, session.tools, reuse=not asked.no_cache)


@take_either
def modelpack(
    model: str | None = None, options: ImageOptions | None = None, *, session: Session | None = None
) -> ModelPack:
    """Write the model's files as a CNCF ModelPack artifact to whom ``options`` say: of those count ``labels``,
    ``compression``, ``tag``, ``output``, ``push`` and ``no_cache``.

    Raises what ``kbuild image --as modelpack`` ends with.
    """
    asked = options or ImageOptions()
    session = session or open_session()
    for name in (asked.tag, asked.push):
        if name is not None:
            check_name(name)
    request = ModelPackRequest(
        model=take_model(model, session),
        labels=(*session.config.labels, *map(parse_label, asked.labels)),
        # Not the project's, which is of images.
        compression=asked.compression or "none",
    )
    delivery = Delivery(tag=asked.tag, output=asked.output, push=asked.push, record=False)
    return build_modelpack(request, delivery, session.tools, reuse=not asked.no_cache)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions(BuildOptions):
    """How tables are scored, as ``kbuild score`` has it; ``params`` are those of the model, None its own defaults.

    ``keep`` are the columns of the input beside the answer: all, none, or names with commas between. ``spark`` is the
    master of the cluster that scores, with ``spark_settings`` of Spark's own names.
    """

    workers: int | None = None
    on_error: str = "fail"
    keep: str = "all"
    format: str | None = None
    params: Mapping[str, Any] | None = None
    overwrite: bool = False
    part_rows: int | None = None
    batch_rows: int | None = None
    spark: str | None = None
    spark_settings: Mapping[str, str] = field(default_factory=dict)


@take_either
def score(
    model: str | None,
    input: str | Path,
    output: str | Path,
    options: ScoreOptions | None = None,
    *,
    session: Session | None = None,
) -> dict[str, Any]:
    """Score the tables of ``input`` into ``output`` with exactly what is served; returns the manifest of it.

    ``model`` is what ``build_image`` takes, ``input`` a Parquet or CSV file, a folder, a pattern, a url, or a Delta or
    Iceberg table, ``output`` a folder, or a file that ends with .parquet or .csv. What was finished before is not
    scored again. Raises InputRefused, RowsFailed, OtherAnswers, WorkerLost (``kbuild.scoring.errors``) and what
    ``kbuild pack`` ends with.
    """
    asked = options or ScoreOptions()
    if asked.spark is None:
        _check_tables(str(input), str(output))
    session = session or open_session()
    model = take_model(model, session)
    request = make_image_request(session.config, model, options=asked)
    batch = ScoreRequest(
        input=str(input),
        output=str(output),
        workers=asked.workers,
        on_error=asked.on_error,
        keep=asked.keep,
        format=asked.format,
        params=None if asked.params is None else json.dumps(asked.params),
        overwrite=asked.overwrite,
        part_rows=asked.part_rows,
        batch_rows=asked.batch_rows,
    )
    if asked.spark is not None:
        from kbuild.workflow.batch.spark import score_on_spark

        return score_on_spark(request, batch, asked.spark, asked.spark_settings, session.tools)
    return score_tables(request, batch, session.tools)


def _check_tables(input: str, output: str) -> None:
    """What is seen of tables of this machine at once; all else the model's own packages look at, once they are there.

    Raises InputRefused and ConfigurationError, as scoring would.
    """
    from kbuild.scoring.errors import no_table
    from kbuild.scoring.parts import ENDINGS
    from kbuild.scoring.places import Place
    from kbuild.scoring.snapshots import refuse_data_files
    from kbuild.scoring.target import ScoreOutput

    if "://" not in output.removeprefix("file://"):
        ScoreOutput.of(output).check_name()
    if "://" not in input.removeprefix("file://"):
        place = Place(input)
        if not place.exists():
            found = place.tables(tuple(ENDINGS))
            if not found:
                raise no_table(f"{place.shown} {place.lacks()}", ENDINGS, place.text)
            refuse_data_files(place, found)
