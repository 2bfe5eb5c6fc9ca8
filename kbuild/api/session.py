"""What work is done with, and which model a text means."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kbuild.api.project import ProjectConfig, project_name, read_project_config, tracking_uri
from kbuild.cache.folder import own_folder
from kbuild.cache.limit import DEFAULT_LIMIT, parse_limit
from kbuild.errors import ConfigurationError, ImageNotFound, InvalidReference, ModelNotFound, TrackingUnavailable
from kbuild.files import expand_home, user_folder
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.listing import list_here
from kbuild.model.model_reference import FORMS, ModelReference
from kbuild.model.shorthand import LATEST
from kbuild.model.store import open_store
from kbuild.plan.make import LABEL_RUN_ID
from kbuild.process import run
from kbuild.progress import Progress, Silent
from kbuild.workflow import Phases, Tools

_LOG = logging.getLogger("kbuild")


class Voice(Phases, Protocol):
    """Tells somebody how the work goes: a terminal, a log, nobody."""

    @property
    def seconds(self) -> dict[str, float]:
        """How long each phase took so far."""

    def say(self, text: str, *, style: str | None = None) -> None:
        """One line, of interest to who listens."""

    def complain(self, text: str, *, style: str = "red") -> None:
        """One line about what went wrong or was not done, for whoever wants quiet too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A project's configuration, what work is done with, and who is told of it."""

    config: ProjectConfig
    tools: Tools
    voice: Voice


def open_session(env: str | None = None, *, voice: Voice | None = None) -> Session:
    """A session for the folder that this process is in: its project, MLflow store and cache, as the commands find them.

    Open one to ask for several things: each function opens its own otherwise. ``env`` is the Kedro environment whose
    ``conf/ENV/kbuild.yml`` counts, ``KEDRO_ENV`` or local by default. What is done is logged by the logger ``kbuild``,
    steps at INFO, unless another ``voice`` is given. Raises ConfigurationError for settings that cannot be.
    """
    config = read_project_config(Path.cwd(), env or os.environ.get("KEDRO_ENV") or None)
    told = voice or Logged()
    return Session(config=config, tools=make_tools(config, told), voice=told)


class Logged:
    """A ``Voice`` for programs and notebooks: the logger ``kbuild``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def say(self, text: str, *, style: str | None = None) -> None:
        """A line at INFO."""
        _LOG.info("%s", text)

    def complain(self, text: str, *, style: str = "red") -> None:
        """A line at WARNING, which Python shows unless it is told otherwise."""
        _LOG.warning("%s", text)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        """Log what ``phase`` made, and how long it took."""
        begin, told = time.monotonic(), _LoggedProgress(phase)
        yield told
        took = time.monotonic() - begin
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + took, 3)
        _LOG.info("%s: %s, %.1f s", phase, told.result or "done", took)


class _LoggedProgress(Silent):
    def __init__(self, phase: str) -> None:
        self._phase = phase
        self.result: str | None = None

    def note(self, text: str) -> None:
        _LOG.debug("%s: %s", self._phase, text)

    def tell(self, text: str) -> None:
        _LOG.info("%s: %s", self._phase, text)

    def made(self, text: str) -> None:
        self.result = text


def make_tools(config: ProjectConfig, voice: Voice) -> Tools:
    """The workflow's tools for the folder that this process is in."""
    uri = tracking_uri(config, Path.cwd())
    cache = cache_folder(voice.complain)
    store = open_store(uri, os.environ.get("MLFLOW_REGISTRY_URI") or None, cache=cache)
    trusted = os.environ.get("KBUILD_TRUST_MODEL") == "1"
    return Tools(store=store, run=run, cache=cache, cache_limit=cache_limit(), phases=voice, trust_model=trusted)


def take_model(text: str | None, session: Session) -> str:
    """The reference that is meant: nothing is the newest trained run, and a run's name or its id's beginning will do.

    Says which run was taken. Raises InvalidReference for a text that cannot be any of these, and ModelNotFound,
    AmbiguousModel or RunWithoutModel.
    """
    if text is not None:
        try:
            ModelReference.parse(text)
        except InvalidReference:
            if not text.strip() or ":/" in text or text.startswith("file:") or expand_home(text).is_dir():
                raise
        else:
            return text
    project = project_name(session.config)
    if text is None and project is None:
        # The newest of a team's whole server is most likely somebody else's.
        raise ModelNotFound("this folder is in no Kedro project, whose newest model would be taken", hint=FORMS)
    try:
        choice = session.tools.store.choose(LATEST if text is None else text, project=project)
    except TrackingUnavailable as error:
        if text is None or not _reads_as_image(text):
            raise
        raise ImageNotFound(
            f"{text!r} is not an image built here; whether it names a run cannot be told: {error.message}",
            hint=error.hint,
        ) from error
    except ModelNotFound as error:
        raise _image_for_model(text, session) or error from error
    if choice.foreign:
        # Whoever asks for quiet still has to know that this is not their own.
        session.voice.complain(f"taking {choice.told}", style="yellow")
    else:
        session.voice.say(f"taking {choice.told}")
    return choice.reference


def pin_model(text: str | None, session: Session) -> str:
    """As ``take_model``, and in the place of an alias the version that it names now."""
    return str(session.tools.store.pin(ModelReference.parse(take_model(text, session))))


def _image_for_model(text: str | None, session: Session) -> ModelNotFound | None:
    """The error for the name of an image that was built here, None for any other text."""
    if text is None or not _reads_as_image(text):
        return None
    for each in list_here(session.tools.cache / "images"):
        run_id = each.labels.get(LABEL_RUN_ID)
        if text in each.names and run_id:
            return ModelNotFound(
                f"{text!r} is an image that was built here, not the model in it", hint=f"did you mean {run_id[:12]}?"
            )
    return None


def _reads_as_image(text: str) -> bool:
    """Whether a text has the form NAME:TAG or NAME@DIGEST of an image."""
    reference = ImageReference.find(text)
    return reference is not None and (reference.tag is not None or reference.digest is not None)


def cache_folder(tell: Callable[[str], object]) -> Path:
    """``KBUILD_CACHE_DIR``, else the user's cache folder; this user's own in it where others may write to that.

    Raises OutputError as ``own_folder`` does, and ConfigurationError.
    """
    stated = os.environ.get("KBUILD_CACHE_DIR")
    # Without "..", but through the links that the user wants it through.
    try:
        absolute = os.path.abspath(expand_home(stated)) if stated else str(user_folder("cache"))  # noqa: PTH100
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no place for the cache: {error.strerror}",
            hint="set KBUILD_CACHE_DIR to a folder that this user may write to",
        ) from error
    folder, is_new = own_folder(Path(absolute))
    if is_new:
        tell(f"others may write to the cache {absolute}: kbuild keeps its files in {folder}")
    return folder


def cache_limit() -> int:
    """Bytes the cache may hold: ``KBUILD_CACHE_LIMIT``; raises ConfigurationError."""
    return parse_limit(os.environ.get("KBUILD_CACHE_LIMIT") or str(DEFAULT_LIMIT))
