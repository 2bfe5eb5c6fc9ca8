"""Many models behind one port, each by the server's own app: ``python kinds_server.py PORT FOLDER ...``.

``/2/invocations`` is the third folder's; loading and answering is what ``kbuild.serving`` does for one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn

from kbuild.serving.answer.model import load_model
from kbuild.serving.http.asgi import ServingApp
from kbuild.serving.http.server_settings import Settings
from kbuild.serving.watch.metrics import Metrics


def make_app(folder: Path) -> ServingApp:
    settings = Settings.from_environment({"KBUILD_MODEL": str(folder), "KBUILD_WORKERS": "1"})
    return ServingApp(load_model(folder, import_mlflow=settings.import_mlflow), settings, Metrics(1))


class Router:
    """Hands requests to the app that their path begins with, and starts all of them."""

    def __init__(self, folders: list[Path]) -> None:
        self._apps = [make_app(folder) for folder in folders]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            number, _, rest = scope["path"].lstrip("/").partition("/")
            await self._apps[int(number)]({**scope, "path": f"/{rest}"}, receive, send)
            return
        await receive()
        tasks = [asyncio.create_task(self._live(app, scope)) for app in self._apps]
        while not all(app.ready for app in self._apps):
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in tasks:
            task.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _live(self, app: ServingApp, scope: Any) -> None:
        kinds = iter(["lifespan.startup"])

        async def receive() -> dict[str, str]:
            for kind in kinds:
                return {"type": kind}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            assert message["type"].endswith("complete")

        await app(scope, receive, send)


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[2:]]
    uvicorn.run(Router(folders), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
