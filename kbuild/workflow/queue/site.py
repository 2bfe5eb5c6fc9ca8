"""The little server of ``kbuild queue --serve``: it shows, and changes nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from kbuild.errors import QueueUnavailable
from kbuild.workflow.queue.page import SHOWN, make_metrics, make_page, page_headers
from kbuild.workflow.queue.states import STATUSES, Figures, JobState, Status

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


class Shown(Protocol):
    """What is asked of a ``Board``."""

    def figures(self) -> Figures:
        """See Board."""

    def jobs(
        self, ids: Collection[int] | None = None, *, statuses: Collection[Status] | None = None, limit: int = SHOWN
    ) -> list[JobState]:
        """See Board."""


def make_site(board: Shown, name: str) -> Starlette:
    """GET / is the page (``?status=``), /metrics for Prometheus; 503 with a line where the database is away."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    # Whoever looks often must not take the database's connections from the workers.
    looking = threading.Semaphore(2)

    def page(request: Request) -> Response:
        stated = request.query_params.get("status")
        if stated is not None and stated not in STATUSES:
            return PlainTextResponse(f"status is one of {', '.join(STATUSES)}\n", 400)
        chosen: Status | None = stated
        try:
            with looking:
                jobs = board.jobs(statuses=None if chosen is None else (chosen,), limit=SHOWN)
                made = make_page(name, board.figures(), jobs, chosen)
        except QueueUnavailable as error:
            return PlainTextResponse(f"{error.message}\n", 503)
        return Response(made, media_type="text/html; charset=utf-8", headers=dict(page_headers()))

    def metrics(request: Request) -> Response:
        try:
            with looking:
                figures = board.figures()
        except QueueUnavailable as error:
            return PlainTextResponse(f"{error.message}\n", 503)
        return Response(make_metrics(figures), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(routes=[Route("/", page), Route("/metrics", metrics)])
