"""The watchdog of one worker: it beats while the event loop turns and a thread may still answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kbuild.serving.watch.metrics import Metrics

_BEAT = 1.0  # seconds


async def watch(metrics: Metrics, hung_for: Callable[[], float], limit: float | None) -> None:
    """Beat until ``hung_for()`` is above ``limit`` seconds, which ends the beating and this."""
    while limit is None or hung_for() <= limit:
        metrics.beat()
        await asyncio.sleep(_BEAT)
    metrics.give_up()
