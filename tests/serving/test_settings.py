import http.server
import threading

import pytest

from kbuild.errors import ConfigurationError
from kbuild.serving import healthcheck
from kbuild.serving.settings import Settings


def test_defaults_are_those_of_a_container() -> None:
    settings = Settings.from_environment({})
    assert (str(settings.model), settings.host, settings.port) == ("/opt/model", "0.0.0.0", 8080)


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "80a", "٨٠", "8080 "])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(ConfigurationError, match="KBUILD_PORT"):
        Settings.from_environment({"KBUILD_PORT": port})


def test_an_unknown_log_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="KBUILD_LOG_LEVEL"):
        Settings.from_environment({"KBUILD_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_healthcheck_says_what_the_server_says(monkeypatch: pytest.MonkeyPatch, status: int, code: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("KBUILD_PORT", str(server.server_port))
        assert healthcheck.main() == code
        thread.join()


def test_healthcheck_without_a_server_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_PORT", "1")
    assert healthcheck.main() == 1
