"""Which interpreter goes into the image: one of a conda channel, or the one that trained the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import requests

from kbuild.environment.condalock.failures import CHANNEL_CREDENTIALS
from kbuild.environment.condalock.rattler_solver import channel_alias, expand_defaults
from kbuild.environment.spec import Interpreter
from kbuild.errors import ConfigurationError
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
    answers = answers_as_channel if probe is None else probe
    return "conda" if any(answers(url) for url in channel_urls(channels, environ)) else "captured"


def channel_urls(channels: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The urls of channels: names below ``CONDA_CHANNEL_ALIAS``, ``defaults`` for what conda means by it, paths as
    file urls, variables filled in."""
    urls = []
    for channel in expand_defaults(channels):
        text = expand_variables(channel, environ)
        if text.startswith("/"):
            urls.append(Path(text).as_uri())
        else:
            urls.append(text if "://" in text else f"{channel_alias(environ).rstrip('/')}/{text}")
    return [url.rstrip("/") for url in urls]


def answers_as_channel(url: str) -> bool:
    """Whether a conda channel answers at ``url`` within a few seconds; raises ConfigurationError where it wants other
    credentials than it is given: going on without it would make another environment than its owner asks for."""
    if url.startswith("file:"):
        folder = Path(unquote(urlsplit(url).path))
        return any((folder / name).is_file() for name in _INDEX_FILES)
    try:
        for name in _INDEX_FILES:
            with requests.get(f"{url}/{name}", stream=True, timeout=_TIMEOUT) as response:
                if response.ok:
                    return True
                if response.status_code == requests.codes.unauthorized:
                    raise ConfigurationError(
                        f"the conda channel {without_credentials(url)} wants other credentials than it is given (401)",
                        hint=CHANNEL_CREDENTIALS,
                    )
    except requests.RequestException:
        return False  # not an error: it is the question
    return False
