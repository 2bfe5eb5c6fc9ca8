import http.server
import threading
from pathlib import Path

import pytest

from kbuild.errors import ConfigurationError
from kbuild.serving.http import server_settings
from kbuild.serving.http.server_settings import Settings
from kbuild.serving.process.cpus import count_cpus
from kbuild.serving.watch import healthcheck


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


def test_ports_of_platforms_count_where_ours_is_not_set() -> None:
    assert Settings.from_environment({"PORT": "81"}).port == 81
    assert Settings.from_environment({"PORT": "81", "AIP_HTTP_PORT": "82"}).port == 82
    assert Settings.from_environment({"PORT": "81", "AIP_HTTP_PORT": "82", "KBUILD_PORT": "83"}).port == 83
    with pytest.raises(ConfigurationError, match="PORT is 'tcp://10"):
        Settings.from_environment({"PORT": "tcp://10.0.0.1:80"})
    assert healthcheck._PORTS == server_settings._PORTS


def test_healthcheck_without_a_server_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_PORT", "1")
    assert healthcheck.main() == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("KBUILD_WORKERS", "0"), ("KBUILD_THREADS", "-1"), ("KBUILD_MAX_QUEUE", "x"), ("KBUILD_TIMEOUT", "0"),
     ("KBUILD_TIMEOUT", "nan"), ("KBUILD_GRACE", "soon"), ("KBUILD_MAX_BODY_BYTES", "1e6"),
     ("KBUILD_ACCESS_LOG", "perhaps"), ("KBUILD_TOKEN", ""), ("KBUILD_TOKEN", "a b"),
     ("KBUILD_TOKEN_FILE", "/nowhere"), ("KBUILD_TLS_CERT", "/nowhere")],
)  # fmt: skip
def test_a_wrong_variable_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match="token" if name == "KBUILD_TOKEN" else name):
        Settings.from_environment({name: text})


def test_the_token_can_come_from_a_file_and_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    settings = Settings.from_environment({"KBUILD_TOKEN_FILE": str(file)})
    assert settings.token == "s3cret"  # noqa: S105
    assert "s3cret" not in repr(settings)
    with pytest.raises(ConfigurationError, match="both"):
        Settings.from_environment({"KBUILD_TOKEN_FILE": str(file), "KBUILD_TOKEN": "x"})


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("")
    with pytest.raises(ConfigurationError, match="go together"):
        Settings.from_environment({"KBUILD_TLS_CERT": str(tmp_path / "c")})


def test_a_worker_hangs_after_twice_the_timeout_unless_stated() -> None:
    for environment, seconds in (({}, 120), ({"KBUILD_TIMEOUT": "5"}, 10), ({"KBUILD_TIMEOUT": "86400"}, 86400)):
        assert Settings.from_environment(environment).hung == seconds
    assert Settings.from_environment({"KBUILD_HUNG_AFTER": "7.5"}).hung == 7.5
    assert Settings.from_environment({"KBUILD_HUNG_AFTER": "0"}).hung is None
    with pytest.raises(ConfigurationError, match="KBUILD_HUNG_AFTER is 'soon'"):
        Settings.from_environment({"KBUILD_HUNG_AFTER": "soon"})


def test_mlflows_own_timeout_counts_where_ours_is_not_set() -> None:
    assert Settings.from_environment({"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": "7"}).timeout == 7
    both = {"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": "7", "KBUILD_TIMEOUT": "1.5"}
    assert Settings.from_environment(both).timeout == 1.5


@pytest.mark.parametrize(
    ("files", "cpus"),
    [({"cpu.max": "100000 100000"}, 1), ({"cpu.max": "150000 100000"}, 1), ({"cpu.max": "10000 100000"}, 1),
     ({"cpu.max": "200000 100000"}, 2), ({"cpu.max": "max 100000"}, 4), ({}, 4), ({"cpu.max": "junk"}, 4),
     ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
     ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4)],
)  # fmt: skip
def test_processors_are_cut_by_the_cgroup(
    files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert count_cpus(tmp_path) == cpus


def test_when_mlflow_is_imported_is_one_of_three() -> None:
    assert Settings.from_environment({}).import_mlflow == "lazy"
    assert Settings.from_environment({"KBUILD_IMPORT_MLFLOW": "Eager"}).import_mlflow == "eager"
    with pytest.raises(ConfigurationError, match="KBUILD_IMPORT_MLFLOW is 'never', not one of lazy, background, eager"):
        Settings.from_environment({"KBUILD_IMPORT_MLFLOW": "never"})


def test_the_variable_of_kbuilds_queue_is_none_of_the_servers() -> None:
    """A worker's machine has it, with a password in it, and may start images."""
    told = Settings.from_environment({"KBUILD_QUEUE": "postgresql://kbuild:secret@db.example/kbuild"})
    assert told == Settings.from_environment({}) and told.queue == 64
    assert Settings.from_environment({"KBUILD_MAX_QUEUE": "3"}).queue == 3
