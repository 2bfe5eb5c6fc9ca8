"""Building what is registered in MLflow, as it is registered."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbuild.api.building import build_image
from kbuild.api.fleet.options import carry_options
from kbuild.api.project import tracking_uri
from kbuild.api.request import ImageOptions, make_delivery
from kbuild.api.session import Session, open_session
from kbuild.errors import ConfigurationError, KbuildError
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.registry import MlflowRegistry
from kbuild.refused import known_error
from kbuild.workflow import ImageResult
from kbuild.workflow.fleet.leaving import LeavingWatch
from kbuild.workflow.fleet.retag import retag
from kbuild.workflow.fleet.wanted import Rules
from kbuild.workflow.fleet.watching import Watch
from kbuild.workflow.queue.asked import Asked

if TYPE_CHECKING:
    from kbuild.workflow.queue.board import Board

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORTEST = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchOptions:
    """What is watched: ``aliases`` and ``models`` are patterns, none of them are all; ``every`` in seconds; versions
    from before ``since`` (seconds since 1970) are built for their aliases only. ``image`` says how images are built,
    and where ``push`` puts them, with {name} and {version} in it."""

    aliases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    every: float = 300.0
    since: float = 0.0
    image: ImageOptions = field(default_factory=ImageOptions)


def open_watch(options: WatchOptions, *, session: Session | None = None, board: Board | None = None) -> Watch:
    """What ``kbuild watch`` runs: ``run_once()`` builds and tags what is wanted now, ``run()`` goes on.

    With the ``board`` of a queue its workers build. Raises ConfigurationError for what would give several versions one
    name.
    """
    session = session or open_session()
    rules = Rules(push=options.image.push, aliases=options.aliases, models=options.models, since=options.since)
    rules.check()
    make_delivery(session.config, options.image)

    def build(model: str) -> ImageResult:
        # Names that one build took are not taken for the next: a version may be built again.
        tools = replace(session.tools, shared=session.tools.shared.next_build())
        result = build_image(model, options.image, session=replace(session, tools=tools))
        session.voice.say(f"{model} is {result.pushed or result.reference}")
        return result

    if board is not None:
        return LeavingWatch(
            registry=open_registry(session),
            rules=rules,
            build=build,
            teller=session.voice,
            every=options.every,
            queue=_Queue(board, carry_options(session.config, options.image), options.aliases),
        )
    return Watch(registry=open_registry(session), rules=rules, build=build, teller=session.voice, every=options.every)


@dataclass(frozen=True, slots=True)
class _Queue:
    board: Board
    options: Mapping[str, Any]
    aliases: tuple[str, ...]

    def put(self, model: str, *, first: bool) -> None:
        asked = Asked(model=model, options=self.options, watched=True, aliases=self.aliases)
        self.board.put([asked], priority=int(first))

    def live(self, models: Collection[str]) -> set[str]:
        return self.board.live(self._asked(models))

    def cancelled(self, models: Collection[str]) -> set[str]:
        return self.board.cancelled(self._asked(models))

    def _asked(self, models: Collection[str]) -> list[Asked]:
        return [Asked(model=each, options=self.options) for each in models]


def tell_version(
    model: str,
    came: ImageResult | KbuildError,
    options: ImageOptions,
    session: Session,
    aliases: tuple[str, ...] = (),
) -> None:
    """Write into a registered version's tags what became of its image, as a watch does that builds it itself, and have
    its aliases of these patterns name it."""

    def build(_: str) -> ImageResult:
        if isinstance(came, KbuildError):
            raise came
        return came

    rules = Rules(push=options.push, aliases=aliases)
    try:
        reference = ModelReference.parse(model)
        registry = open_registry(session)
        watch = Watch(registry=registry, rules=rules, build=build, teller=session.voice, retag=retag)
        for version in registry.versions(reference.name):
            if version.version == reference.version and watch.make(version).error is None:
                watch.tag_aliases(version)
    except Exception as unknown:  # noqa: BLE001  the image is there, whoever is told of it
        # The watch finds it untold, and asks again; nothing is built anew then.
        session.voice.complain(f"{model} is not told of it: {known_error(unknown).message}", style="yellow")


def open_registry(session: Session) -> MlflowRegistry:
    """The registry of the MLflow server that the session's folder names."""
    uri = tracking_uri(session.config, Path.cwd())
    return MlflowRegistry(
        store=MlflowStore(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or None)
    )


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``5m``, ``1h`` or ``2d``; raises ConfigurationError."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds < _SHORTEST:
        raise ConfigurationError(
            f"{text!r} is not a length of time", hint="such as 90s, 5m, 1h or 2d; 1s is the shortest"
        )
    return seconds


def parse_since(text: str, *, now: float) -> float:
    """Seconds since 1970 of a date, a time (UTC unless it says otherwise), or so long ago as ``30d``.

    Raises ConfigurationError.
    """
    try:
        when = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return now - parse_duration(text)
        except ConfigurationError as error:
            hint = "such as 2026-11-01, 2026-11-01T12:00:00+01:00 or 30d"
            raise ConfigurationError(f"{text!r} is not a time", hint=hint) from error
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
