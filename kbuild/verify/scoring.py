"""Talking to a running scoring server.

Protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally ("Inference Server Specification").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import requests

from kbuild.errors import ContainerFailed
from kbuild.image.run.running import RunningImage
from kbuild.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A response: HTTP status and the body's bytes."""

    status: int
    body: bytes


def wait_until_ready(
    running: RunningImage,
    *,
    timeout: float,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when ``/health`` answers 200; raises ContainerFailed when it stops or ``timeout`` seconds pass."""
    begin = clock()
    progress.note(f"waiting for {running.url} ({running.describe()})")
    while clock() - begin < timeout:
        if not running.alive():
            raise ContainerFailed(f"the image stopped before it answered: {_last_words(running)}")
        try:
            if requests.get(f"{running.url}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass  # not up yet: the loop asks again until the time is over
        sleep(0.1)
    raise ContainerFailed(
        f"the image did not answer /health within {timeout:g} s: {_last_words(running)}",
        hint="a large model may need longer: --timeout SECONDS",
    )


def post_invocations(url: str, body: bytes, *, timeout: float = 60.0) -> Answer:
    """POST a JSON body to ``/invocations``; raises ContainerFailed when nothing answers within ``timeout`` seconds."""
    try:
        response = requests.post(
            f"{url}/invocations", data=body, headers={"Content-Type": "application/json"}, timeout=timeout
        )
    except requests.RequestException as error:
        raise ContainerFailed(f"/invocations does not answer: {' '.join(str(error).split())}") from error
    return Answer(status=response.status_code, body=response.content)


def _last_words(running: RunningImage) -> str:
    lines = [line.strip() for line in running.logs().splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "it wrote nothing"
