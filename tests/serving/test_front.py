"""Below a path of a proxy's, and asked by pages of other origins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgi import call

from kbuild.errors import ConfigurationError
from kbuild.serving.http.front import make_front
from kbuild.serving.http.server_settings import Settings


async def tell(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['path']} {scope['raw_path'].decode()}".encode()})


def ask(app: Any, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(call(app, method, path, headers=named))


def test_without_a_variable_the_app_is_itself() -> None:
    settings = Settings.from_environment({"KBUILD_ROOT_PATH": "", "KBUILD_CORS_ORIGINS": ""})
    assert make_front(tell, root_path=settings.root_path, origins=settings.origins) is tell


def test_a_path_is_taken_off_and_may_be_off_already() -> None:
    root = Settings.from_environment({"KBUILD_ROOT_PATH": "/models/churn/"}).root_path
    app = make_front(tell, root_path=root, origins=())
    assert ask(app, "GET", "/models/churn/ping")[2] == b"/ping /ping"
    assert ask(app, "GET", "/ping")[2] == b"/ping /ping"
    assert ask(app, "GET", "/models/churner/ping")[2] == b"/models/churner/ping /models/churner/ping"
    status, headers, _ = ask(app, "GET", "/models/churn")
    assert (status, headers["location"]) == (307, "/models/churn/")


def test_browsers_are_told_whose_pages_may_ask() -> None:
    origins = Settings.from_environment({"KBUILD_CORS_ORIGINS": "https://app.example, http://[::1]:3000"}).origins
    app = make_front(tell, root_path="", origins=origins)
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "content-type,authorization"}
    status, headers, _ = ask(app, "OPTIONS", "/invocations", origin="https://app.example", **asked)
    assert status == 200 and headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in headers["access-control-allow-methods"]
    assert {"content-type", "authorization"} <= set(headers["access-control-allow-headers"].split(","))
    assert ask(app, "OPTIONS", "/invocations", origin="https://else.example", **asked)[0] == 400
    assert "access-control-allow-origin" not in ask(app, "GET", "/ping", origin="https://else.example")[1]
    assert ask(app, "GET", "/ping", origin="http://[::1]:3000")[1]["access-control-allow-origin"] == "http://[::1]:3000"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KBUILD_ROOT_PATH", "models"),
        ("KBUILD_ROOT_PATH", "/a b"),
        ("KBUILD_CORS_ORIGINS", "app.example"),
        ("KBUILD_CORS_ORIGINS", "https://app.example/page"),
    ],
)
def test_what_is_no_path_and_no_origin_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_environment({name: text})
