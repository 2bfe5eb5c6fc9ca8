"""Which interpreter goes into the image: one of a conda channel, or the one that trained the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import requests

from kbuild.environment.conda_settings import conda_settings
from kbuild.environment.condalock.failures import CHANNEL_CREDENTIALS
from kbuild.environment.index.channel_network import reach_as_conda
from kbuild.environment.spec import Interpreter
from kbuild.errors import ConfigurationError
from kbuild.http import bounded_session
from kbuild.urls.credentials import expand_variables, without_credentials

# Every channel has one of these (conda's docs, "Channels and generating an index").
_INDEX_FILES = ("noarch/repodata.json.zst", "noarch/repodata.json")
_TIMEOUT = 4.0

Probe = Callable[[str], bool]


def choose_interpreter(
    requested: str, channels: Sequence[str], *, environ: Mapping[str, str], probe: Probe | None = None
) -> Interpreter:
    """``conda`` or ``captured``; ``auto`` is ``captured`` where no channel answers.

    ``channels`` are names or urls, as in the spec. Raises ConfigurationError for another word and for a channel whose
    variables are not set or that wants credentials.
    """
    if requested in ("conda", "captured"):
        explicit: Literal["conda", "captured"] = "conda" if requested == "conda" else "captured"
        return explicit
    if requested != "auto":
        raise ConfigurationError(f"unknown interpreter {requested!r}", hint="known are auto, conda and captured")
    answers = partial(answers_as_channel, environ=environ) if probe is None else probe
    return "conda" if any(answers(url) for url in channel_urls(channels, environ)) else "captured"


def channel_urls(channels: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The urls of channels: names as conda's settings on this machine place them, paths as file urls, variables filled
    in. Raises ConfigurationError."""
    places = conda_settings(environ).places([expand_variables(channel, environ) for channel in channels])
    return [(Path(place).as_uri() if place.startswith("/") else place).rstrip("/") for place in places]


def answers_as_channel(url: str, *, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a conda channel answers at ``url`` within a few seconds; raises ConfigurationError where it wants other
    credentials than it is given: going on without it would make another environment than its owner asks for."""
    if url.startswith("file:"):
        folder = Path(unquote(urlsplit(url).path))
        return any((folder / name).is_file() for name in _INDEX_FILES)
    session = bounded_session()
    reach_as_conda(session, conda_settings(environ), environ)
    try:
        for name in _INDEX_FILES:
            with session.get(f"{url}/{name}", stream=True, timeout=_TIMEOUT) as response:
                if response.ok:
                    return True
                if response.status_code == requests.codes.unauthorized:
                    raise ConfigurationError(
                        f"the conda channel {without_credentials(url)} wants other credentials than it is given (401)",
                        hint=CHANNEL_CREDENTIALS,
                    )
    except requests.RequestException:
        return False  # not an error: it is the question
    finally:
        session.close()
    return False
