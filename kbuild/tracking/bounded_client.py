"""Answers to MLflow's own client come to an end: it reads each as a whole, however much a server sends.

Its sessions are of ``mlflow.utils.request_utils``; files are streamed, or asked for in ranges, and bounded elsewhere.
"""

from __future__ import annotations

from typing import Any

from kbuild.bounded.answers import bound

_LARGEST = 64 << 20  # bytes; a page of 1,000 runs with 100 parameters, metrics and tags each has a third of it


def bound_answers() -> None:
    """Bound the answers that MLflow's client reads in this process; once is enough."""
    from mlflow.utils import request_utils

    make = getattr(request_utils, "_get_request_session", None)
    if make is None or hasattr(make, "__wrapped__"):
        return

    def bounded(*args: Any, **options: Any) -> Any:
        session = make(*args, **options)  # the same one for the same questions
        for adapter in {*session.adapters.values()}:
            if not hasattr(adapter, "bounded_by_kbuild"):
                adapter.bounded_by_kbuild = True
                bound(adapter, _LARGEST)
        return session

    bounded.__wrapped__ = make  # type: ignore[attr-defined]
    request_utils._get_request_session = bounded
