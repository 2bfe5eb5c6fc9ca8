"""A bounded load on a scoring server: so many connections, each of which has one request under way all the time.

What is asked so (a closed loop) cannot be more than what is answered: nothing piles up, and the latencies are those of
a server that is as busy as these connections can make it.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PATIENCE = 60.0
"""Seconds that an answer may take; a load takes that much longer at most."""
_TICK = 0.2  # seconds between two looks at what is used
_RETRY = 0.1  # seconds after a connection that broke


@dataclass(kw_only=True, slots=True)
class Answers:
    """``latencies`` of answers with 200, in seconds; ``failed`` is how many others there were, ``words`` the last of
    them; ``seconds`` is how long all took."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    words: str = ""
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


def ask_for(
    url: str, body: bytes, *, connections: int, seconds: float, look: Callable[[], object] = lambda: None
) -> Answers:
    """POST a JSON body to ``/invocations`` again and again; ``look`` is called five times a second meanwhile."""
    end = time.monotonic() + seconds
    found = [Answers() for _ in range(connections)]
    threads = [threading.Thread(target=_ask, args=(url, body, end, each), daemon=True) for each in found]
    begin = time.monotonic()
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        look()
        threads[0].join(_TICK) if threads[0].is_alive() else time.sleep(_TICK / 10)
    whole = Answers(seconds=time.monotonic() - begin)
    for one in found:
        whole.latencies += one.latencies
        whole.failed += one.failed
        whole.words = one.words or whole.words
    return whole


def quantile(latencies: Sequence[float], part: float) -> float:
    """The nearest rank of sorted latencies; nan for none."""
    return latencies[min(len(latencies) - 1, math.ceil(part * len(latencies)) - 1)] if latencies else math.nan


def _ask(url: str, body: bytes, end: float, found: Answers) -> None:
    # The standard library's client: it costs 0.1 ms a request, others several times that, on the server's machine.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    headers = {"Content-Type": "application/json"}
    while time.monotonic() < end:
        begin = time.perf_counter()
        try:
            connection.request("POST", "/invocations", body, headers)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            found.failed += 1
            found.words = f"{type(error).__name__}: {error}"
            connection.close()
            time.sleep(_RETRY)
            continue
        if answer.status == 200:
            found.latencies.append(time.perf_counter() - begin)
        else:
            found.failed += 1
            found.words = f"{answer.status}: {' '.join(data.decode(errors='replace').split())[:300]}"
            time.sleep(_RETRY if answer.status == 503 else 0)
    connection.close()
