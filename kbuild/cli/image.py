"""``kbuild image``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kbuild.api.building import build_image
from kbuild.api.request import ImageOptions, Measure, make_delivery, make_image_request
from kbuild.api.session import Session, take_model
from kbuild.cli.many import check_delivery, image_many, read_references
from kbuild.cli.options import (
    OfOneModel,
    build_options,
    builder_options,
    cache_options,
    compression_option,
    engine_option,
    json_option,
    open_here,
    optional_model_argument,
)
from kbuild.cli.show import SHORT, Show
from kbuild.model.model_reference import ModelReference
from kbuild.progress import how_many
from kbuild.workflow import PATIENCE, ImageResult
from kbuild.workflow.fleet.shard import Shard, digest_models, folder_sizes


@click.command("image", cls=OfOneModel)
@optional_model_argument
@click.option("--all-registered", is_flag=True, help="Every registered model: its newest and its aliased versions.")
@click.option("--from-file", metavar="FILE", help="Many models: one a line, as MODEL; # begins a comment; - is stdin.")
@click.option(
    "--best",
    metavar="METRIC[:min]",
    callback=lambda _context, _option, text: None if text is None else parse_best(text),
    help="Of MODEL's child runs, the one with the highest value of it, or with :min the lowest.",
)
@click.option(
    "--jobs", "-j", type=click.IntRange(1, 64), help="So many of them at a time.  [default: 2, or one a builder]"
)
@click.option(
    "--shard",
    metavar="K/N",
    callback=lambda _context, _option, text: None if text is None else Shard.parse(text),
    help="Of many models the K-th of N shares, alike in size, for machines that share them: every model is in one.",
)
@click.option(
    "--queue",
    metavar="[URL]",
    is_flag=False,
    flag_value="",
    help="Leave it to the workers of a queue, such as postgresql://user@host/database.  [default: KBUILD_QUEUE]",
)
@click.option("--priority", type=int, help="In the queue: higher ones are built first.  [default: 0]")
@click.option("--wait", is_flag=True, help="Show what the queue's workers do until all are built.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write what became of each as JSON.")
@click.option(
    "--as",
    "kind",
    type=click.Choice(["server", "model", "modelpack"]),
    default="server",
    show_default=True,
    help="server: what serves it; model: its files alone, in /models, for KServe's modelcars and image volumes; "
    "modelpack: its files as an artifact of CNCF ModelPack.",
)
@click.option("--tag", "-t", help="Name of the image, such as churn:1; see --push.")
@engine_option
@build_options
@builder_options
@compression_option
@cache_options
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Also write an OCI layout folder, or FILE.tar.")
@click.option("--load", is_flag=True, help="Also load it into the Docker engine.")
@click.option(
    "--push",
    metavar="REFERENCE",
    help="Also push it, such as to registry.example/churn:1; {name}, {version}, {run_id} and {model_id} are filled in.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    envvar="KBUILD_VERIFY",
    help="Start it and compare its answer with the trained model's before it goes anywhere.  [default: verify]",
)
@click.option(
    "--verify-timeout",
    type=click.FloatRange(min=1),
    default=PATIENCE,
    show_default=True,
    help="Seconds for it to get ready, and to answer.",
)
@click.option("--no-cache", is_flag=True, help="Build again even if this very plan was built before.")
@click.option(
    "--verify-cache",
    is_flag=True,
    envvar="KBUILD_VERIFY_CACHE",
    help="Read all that is taken from the cache and compare it with its digest, though nobody touched it.",
)
@json_option
def command(
    model: str | None,
    all_registered: bool,
    from_file: str | None,
    jobs: int | None,
    report: Path | None,
    shard: Shard | None,
    queue: str | None,
    priority: int | None,
    wait: bool,
    kind: str,
    as_json: bool,
    **stated: Any,
) -> None:
    """Build the image that serves MODEL and print name@digest.

    MODEL is a run's id, the beginning of it or the run's name, runs:/ID/NAME, models:/NAME (its newest version),
    models:/NAME/VERSION, models:/NAME@ALIAS or a model folder. Without one it is your newest run of this project that
    trained a model, @latest; @latest~1 is the one before. With several
    platforms the digest is that of the image index; each platform's image keeps the digest that it has alone, and
    can be named by it too.

    A run that trained many, a sweep, has child runs: --best METRIC takes one of them, else they are named.

    Of many models a line each is printed, MODEL<tab>name@digest (with --json an object a line); those that fail are
    told at the end, and the exit code is then 70. What is built is not built again, so the same command goes on where
    it was stopped.
    """
    options = ImageOptions(**stated)
    if kind != "server":
        from kbuild.cli import model_image

        of_model = {"model": model_image.image_of_model, "modelpack": model_image.modelpack_of_model}
        of_model[kind](model, options, as_json=as_json)
        return
    many = all_registered or from_file is not None
    of_many = jobs is not None or report is not None or shard is not None or len(options.builders) > 1
    if sum((model is not None, all_registered, from_file is not None)) > 1:
        raise click.UsageError("give one of MODEL, --all-registered and --from-file")
    if queue is None and (wait or priority is not None):
        raise click.UsageError("--wait and --priority are of --queue")
    if queue is not None and (jobs is not None or shard is not None):
        raise click.UsageError("--jobs is of kbuild worker, and --shard of machines without a queue")
    if queue is not None and options.push is None:
        raise click.UsageError("--queue needs --push: what is not pushed stays on the machine that built it")
    if queue is not None and report is not None and not wait:
        raise click.UsageError("--report tells what became of them: add --wait")
    if of_many and not many and queue is None:
        raise click.UsageError("--jobs, --report, --shard and several --builder are of many models")
    if options.best is not None and model is None:
        raise click.UsageError("--best takes one of a run's child runs: MODEL must be that run")
    show = Show()
    session = open_here(show)
    if queue is not None:
        # Most builds ask none.
        from kbuild.cli.extras import check_extra
        from kbuild.cli.queued import image_queued
        from kbuild.process import run

        check_extra("queue", run=run)
        if many:
            models = list(_list_models(from_file, session, show))
            check_delivery(models, make_delivery(session.config, options))
        else:
            models = [take_model(model, session)]
        first = priority or 0
        image_queued(
            models, options, session, show,
            queue=queue, priority=first, wait=wait, report=report, as_json=as_json, several=many,
        )  # fmt: skip
    elif many:
        _build_many(from_file, options, session, show, jobs=jobs, report=report, shard=shard, as_json=as_json)
    else:
        result = build_image(model, options, session=session)
        show.say(summary(result, show.seconds, options.output))
        show.next(next_commands(result))
        click.echo(json.dumps(to_json(result, show.seconds)) if as_json else result.reference)


def _build_many(
    from_file: str | None,
    options: ImageOptions,
    session: Session,
    show: Show,
    *,
    jobs: int | None,
    report: Path | None,
    shard: Shard | None,
    as_json: bool,
) -> None:
    delivery = make_delivery(session.config, options)
    request = make_image_request(session.config, "", options.engine, options)
    listed = _list_models(from_file, session, show)
    check_delivery(list(listed), delivery)
    models, shared = (list(listed), None) if shard is None else _take_shard(shard, listed, show)
    image_many(
        [replace(request, model=each) for each in models],
        delivery,
        replace(session.tools, verify_cache=options.verify_cache),
        show,
        jobs=jobs or max(2, len(options.builders)),
        builders=options.builders,
        reuse=not options.no_cache,
        report=report,
        to_json=to_json if as_json else None,
        shared=shared,
    )


def _list_models(from_file: str | None, session: Session, show: Show) -> dict[str, int | None]:
    if from_file is not None:
        listed = read_references(from_file, lambda text: take_model(text, session))
    else:
        show.say("asking for the registered models")
        listed = dict.fromkeys(session.tools.store.registered())
    if not listed:
        show.say("no model is registered" if from_file is None else f"{from_file} names no model")
    return listed


def _take_shard(shard: Shard, listed: Mapping[str, int | None], show: Show) -> tuple[list[str], dict[str, Any]]:
    """The models of this share, and what the report says of it."""
    folders = {each: path for each in listed if (path := ModelReference.parse(each).path) is not None}
    sizes = {each: size for each, size in listed.items() if size is not None}
    sizes |= folder_sizes({each: path for each, path in folders.items() if each not in sizes})
    mine, whole = shard.of(list(listed), sizes), digest_models(list(listed), sizes)
    # Machines that were told different ones would leave models out: whoever doubts it compares this.
    show.say(f"shard {shard} has {len(mine)} of {how_many(len(listed), 'model')}, of the list {whole}")
    return mine, {"shard": {"number": shard.number, "count": shard.count, "of": len(listed), "list": str(whole)}}


def parse_best(text: str) -> Measure:
    """Read ``METRIC``, ``METRIC:max`` or ``METRIC:min``; raises click's BadParameter."""
    metric, colon, direction = text.rpartition(":")
    if not colon or direction not in ("min", "max"):  # MLflow lets names have colons
        metric, direction = text, "max"
    if not metric.strip():
        raise click.BadParameter(f"{text!r} names no metric")
    return Measure(metric=metric.strip(), lowest=direction == "min")


def summary(result: ImageResult, seconds: dict[str, float], output: Path | None = None) -> str:
    """What was built, and where it is."""
    platforms = ", ".join(map(str, result.index.images)) if result.index is not None else str(result.plan.platform)
    kept = f"pushed as {result.pushed}" if result.pushed else "kept on this machine"
    took = "" if result.reused else f", in {sum(seconds.values()):.1f} s"
    size = f"{result.image.size / 1e6:.0f} MB for {platforms}"
    written = "" if output is None else f", written to {output}"
    return f"{size}, built by the {result.image.engine} engine{took}; {kept}{written}"


def next_commands(result: ImageResult) -> dict[str, str]:
    """What to type next, with what it does."""
    name = f"sha256:{result.digest.hex[:SHORT]}" if result.named is None else shlex.quote(result.named)
    verified = result.verified is not None and result.verified.verdict is not None
    first = (
        {f"kbuild audit {name}": "what is in it, and what is wrong with it"}
        if verified
        else {f"kbuild verify {name}": "does it answer as the trained model did?"}
    )
    pushed = f"docker run --rm -p 8080:8080 {shlex.quote(result.pushed)}" if result.pushed else None
    anywhere = {} if pushed is None else {pushed: "serve it anywhere"}
    return {**first, f"kbuild run {name}": "serve it here", **anywhere}


def to_json(result: ImageResult, seconds: dict[str, float]) -> dict[str, Any]:
    """The object that ``--json`` prints; sizes in bytes."""
    return {
        "reference": result.reference,
        "digest": str(result.digest),
        "image_id": str(result.image.config_digest),
        "layout": str(result.layout),
        "engine": result.image.engine,
        "model_digest": str(result.model_digest),
        "lock_digest": str(result.lock_digest),
        "plan_digest": str(result.plan.digest),
        "size": result.image.size,
        "layers": [
            {"digest": str(layer.digest), "diff_id": str(layer.diff_id), "size": layer.size, "by": layer.created_by}
            for layer in result.image.layers
        ],
        "pushed": result.pushed,
        "tagged": result.tagged,
        "untagged": result.untagged,
        "verified": None if result.verified is None else result.verified.verdict,
        "not_verified": None if result.verified is None else result.verified.reason,
        "yanked": list(result.yanked),
        "seconds": seconds,
        "platforms": {
            str(platform): {"digest": str(image.digest), "image_id": str(image.config_digest), "size": image.size}
            for platform, image in ({} if result.index is None else result.index.images).items()
        },
    }
