"""Locking a model's environment and building its image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.api.request import (
    BuildOptions,
    ImageOptions,
    LockOptions,
    Measure,
    check_named_base,
    make_delivery,
    make_image_request,
    make_lock_request,
)
from kbuild.api.session import Session, Voice, open_session, take_model
from kbuild.environment.locking.lock_model import Locked
from kbuild.errors import InvalidReference
from kbuild.model.model_reference import ModelReference
from kbuild.model.shorthand import SHORT_ID
from kbuild.offered.given import take_either
from kbuild.plan.build_plan import BuildContext
from kbuild.progress import Silent
from kbuild.workflow import ImageResult, Outcome, Phases, build_many, lock_model, render_context
from kbuild.workflow import build_image as build


@take_either
def build_image(
    model: str | None = None, options: ImageOptions | None = None, *, session: Session | None = None
) -> ImageResult:
    """Build the image that serves a model, verify it, and give it to whom ``options`` say.

    ``model`` is what ``kbuild image`` takes: a run's id, its beginning or its name, ``models:/NAME``,
    ``models:/NAME@ALIAS``, a model folder; None is the newest trained run of this project. Raises a KbuildError of the
    class whose exit code the command has.
    """
    asked = options or ImageOptions()
    session = session or open_session()
    delivery = make_delivery(session.config, asked)
    request = make_image_request(session.config, model or "", asked.engine, asked)
    model = take_model(model, session)
    if asked.best is not None:
        model = _take_best(model, asked.best, session)
    request = replace(request, model=model)
    tools = replace(session.tools, verify_cache=asked.verify_cache)
    result = build(request, delivery, tools, reuse=not asked.no_cache)
    if result.reused:
        session.voice.say("nothing has changed since this image was built (--no-cache builds again)")
    if result.verified is not None and result.verified.reason is not None:
        session.voice.complain(f"not verified: {result.verified.reason}", style="yellow")
    for each in result.yanked:
        session.voice.say(each, style="yellow")
    if result.untagged is not None:
        session.voice.complain(f"the run is not tagged with this image: {result.untagged}", style="yellow")
    return result


@take_either
def lock(
    model: str | None = None,
    options: LockOptions | None = None,
    *,
    output: Path | None = None,
    base: str | None = None,
    force: bool = False,
    session: Session | None = None,
) -> Locked:
    """Pin every package of a model by url and sha256; the lock is stored with its run, and written to ``output``.

    ``base`` is what the image will stand on; ``force`` resolves again even if a fresh lock is there. Raises
    ResolverFailed, LockfileStale, and what else ``kbuild lock`` ends with.
    """
    session = session or open_session()
    request = make_lock_request(session.config, options or LockOptions())
    base = base or session.config.base
    check_named_base(base)
    model = take_model(model, session)
    return lock_model(model, request, session.tools, output=output, base=base, force=force)


def build_images(
    models: Sequence[str] | None = None,
    options: ImageOptions | None = None,
    *,
    jobs: int = 2,
    session: Session | None = None,
) -> Iterator[Outcome]:
    """Build the images of many models, ``jobs`` at a time; an outcome comes as soon as it is there.

    ``models`` None are the registered ones: of each the newest version and those with an alias. An outcome has the
    ``model``, its ``result`` or its ``error``, and ``seconds``; a model that fails stops no other. ``tag`` and ``push``
    of ``options`` need placeholders. What was built before is not built again. Raises InvalidReference for a text that
    names no model, before anything is built.
    """
    asked = options or ImageOptions()
    session = session or open_session()
    delivery = make_delivery(session.config, asked)
    request = make_image_request(session.config, "", asked.engine, asked)
    named = session.tools.store.registered() if models is None else list(dict.fromkeys(models))
    for each in named:
        ModelReference.parse(each)
    requests = [replace(request, model=each) for each in named]
    tools = replace(session.tools, verify_cache=asked.verify_cache)
    watcher = _Watcher(session.voice)
    return build_many(
        requests, delivery, tools, watcher=watcher, jobs=jobs, builders=asked.builders, reuse=not asked.no_cache
    )


@take_either
def render(
    model: str | None = None, options: BuildOptions | None = None, *, output: Path, session: Session | None = None
) -> BuildContext:
    """Write the Dockerfile of a model and all that it copies into ``output``, a folder that is not there yet.

    The result's ``plan`` says what the image will be. Raises OutputError, TemplateError, and what else
    ``kbuild render`` ends with.
    """
    session = session or open_session()
    request = make_image_request(session.config, model or "", options=options or BuildOptions())
    return render_context(replace(request, model=take_model(model, session)), session.tools, output=output)


@dataclass(frozen=True, slots=True)
class _Watcher:
    """Says of each model what became of it; phases of several at a time would be told in one another's way."""

    voice: Voice

    def begin(self, model: str) -> Phases:
        return lambda _: nullcontext(Silent())

    def end(self, outcome: Outcome) -> None:
        done = None if outcome.result is None else outcome.result.reference
        self.voice.say(f"{outcome.model} {done or outcome.error or 'stopped'} ({outcome.seconds:.1f} s)")


def _take_best(model: str, wanted: Measure, session: Session) -> str:
    """The best child run's model, as a reference; says which it is, and of which others."""
    parent = ModelReference.parse(model)
    if parent.kind != "run":
        raise InvalidReference(f"{model} is not a run", hint="best takes one of a run's child runs: name that run")
    best = session.tools.store.best_child(parent, wanted.metric, lowest=wanted.lowest)
    which = "lowest" if wanted.lowest else "highest"
    left_out = f"; left out: {', '.join(best.left_out)}" if best.left_out else ""
    value = f"{wanted.metric} {best.value:g}, the {which} of {best.compared}"
    session.voice.say(f"taking run {best.run_id[:SHORT_ID]} ({best.name}): {value}{left_out}")
    return f"runs:/{best.run_id}" + (f"/{parent.name}" if parent.name else "")
