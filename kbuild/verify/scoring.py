"""Talking to a running scoring server.

Protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally ("Inference Server Specification").
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from kbuild.errors import ContainerFailed, RuntimeUnavailable
from kbuild.image.run.running import RunningImage
from kbuild.progress import Progress

_FAR = 20.0  # seconds after which a port that nobody listens at is taken for another machine's


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAnswer:
    """A response: HTTP status and the body's bytes."""

    status: int
    body: bytes


def wait_until_ready(
    running: RunningImage,
    *,
    timeout: float,
    progress: Progress,
    option: str = "--timeout",
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when ``/health`` answers 200; raises ContainerFailed when it stops or ``timeout`` seconds pass.

    ``option`` is what the hint names for more patience. Raises RuntimeUnavailable where it runs on a machine whose
    ports are not ours: a server listens before it loads its model.
    """
    begin = clock()
    reached = False
    progress.note(f"waiting for {running.url} ({running.describe()})")
    while clock() - begin < timeout:
        if not running.alive():
            words = _last_words(running)
            raise ContainerFailed(f"the image stopped before it answered: {words}", hint=_hint_of(words))
        try:
            if _session().get(f"{running.url}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass  # not up yet: the loop asks again until the time is over
        reached = reached or _is_reached(running.url)
        if running.remote and not reached and clock() - begin > _FAR:
            raise RuntimeUnavailable(
                f"{running.describe()} runs, and {running.url} does not reach it: its Docker is of another machine",
                hint="KBUILD_RUNTIME=unshare runs it without Docker",
            )
        progress.count(int(clock() - begin), None, "s")  # where a signal stops the work
        sleep(0.1)
    raise ContainerFailed(
        f"the image did not answer /health within {timeout:g} s: {_last_words(running)}",
        hint=f"a large model may need longer: {option} SECONDS",
    )


def post_invocations(url: str, body: bytes, *, timeout: float) -> ServerAnswer:
    """POST a JSON body to ``/invocations``; raises ContainerFailed when nothing answers within ``timeout`` seconds."""
    try:
        response = _session().post(
            f"{url}/invocations", data=body, headers={"Content-Type": "application/json"}, timeout=timeout
        )
    except requests.RequestException as error:
        raise ContainerFailed(f"/invocations does not answer: {' '.join(str(error).split())}") from error
    return ServerAnswer(status=response.status_code, body=response.content)


def _session() -> requests.Session:
    """One that asks no proxy: the image is on this machine."""
    session = requests.Session()
    session.trust_env = False
    return session


def _is_reached(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((parts.hostname or "", parts.port or 80)) == 0


def _hint_of(words: str) -> str | None:
    """Where the dynamic loader of the image's C library lacks a library, which it says in these words (glibc)."""
    lacking = re.search(r"(\S+\.so[\w.]*): cannot open shared object file", words)
    if lacking is None:
        return None
    return f"a package of the model takes {lacking[1]} from the system: name a base that has it, with --base"


def _last_words(running: RunningImage) -> str:
    lines = [line.strip() for line in running.logs().splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "it wrote nothing"
