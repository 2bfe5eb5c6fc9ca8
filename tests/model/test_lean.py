from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from store_questions import Alone, Logged, check_answers, check_files, check_tags, log_everything

from kbuild.errors import ModelNotFound, OutputError
from kbuild.http import patient_session
from kbuild.model import tracking
from kbuild.model.fetch import MlflowStore, RunFacts
from kbuild.model.folders import open_local
from kbuild.model.model_reference import ModelReference
from kbuild.model.sqlite import WITH_WORKSPACES, WITHOUT_WORKSPACES
from kbuild.model.store import DirectStore, open_tracking
from kbuild.model.tracking import Unfamiliar, reasons

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, migrated: bytes) -> Logged:
    folder = tmp_path_factory.mktemp("the store")  # a space: %20 in the uris of artifacts
    (folder / "mlflow.db").write_bytes(migrated)
    logged = log_everything(f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri())
    with closing(sqlite3.connect(_database(logged))) as database:
        revision = database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    if revision not in WITH_WORKSPACES | WITHOUT_WORKSPACES:
        # Such stores are left to MLflow's client: right, and slower.
        pytest.skip(f"the schema {revision} of MLflow {metadata.version('mlflow')} is not known yet")
    return logged


@pytest.fixture
def logged(filled: Logged, tmp_path: Path) -> Logged:
    """The same store with a database that the test may change."""
    shutil.copyfile(_database(filled), tmp_path / "mlflow.db")
    return replace(filled, uri=f"sqlite:///{tmp_path}/mlflow.db")


def _database(logged: Logged) -> Path:
    return Path(logged.uri.removeprefix("sqlite:///"))


@pytest.mark.slow
def test_answers_are_those_of_mlflows_client(logged: Logged, tmp_path: Path) -> None:
    check_answers(logged, tmp_path)


@pytest.mark.slow
def test_files_are_written_and_read_as_by_mlflows_client(logged: Logged, tmp_path: Path) -> None:
    check_files(logged, tmp_path)


@pytest.mark.slow
def test_tags_are_written_as_by_mlflows_client(logged: Logged) -> None:
    check_tags(logged)


def test_local_files_are_read_where_they_lie(logged: Logged, tmp_path: Path) -> None:
    bundle = Alone(tracking_uri=logged.uri).fetch(ModelReference.parse(logged.one), tmp_path / "model")
    assert not bundle.root.is_relative_to(tmp_path)
    assert list((tmp_path / "model").iterdir()) == []


def test_tags_that_say_so_already_are_not_written_again(logged: Logged) -> None:
    store = Alone(tracking_uri=logged.uri)
    store.set_tags(logged.one, {"kbuild.a": "1"})
    _database(logged).chmod(0o444)
    before = _database(logged).read_bytes()
    store.set_tags(logged.one, {"kbuild.a": "1"})
    assert _database(logged).read_bytes() == before


def test_nothing_of_mlflow_is_imported(logged: Logged, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from kbuild.model.store import open_store
from kbuild.model.model_reference import ModelReference
from kbuild.model.sqlite import WITH_WORKSPACES, WITHOUT_WORKSPACES
store, into = open_store({logged.uri!r}), Path({str(tmp_path)!r})
store.fetch(ModelReference.parse({logged.one!r}), into / "model")
store.download({logged.one!r}, "kbuild/none", into / "none")
for value in "112":
    store.set_tags({logged.one!r}, {{"kbuild.a": value}}, model_uri="models:/" + {logged.model_id!r})
print(*sorted({{"mlflow", "sqlalchemy", "requests", "pandas", "numpy", "pip"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
    assert Alone(tracking_uri=logged.uri).read_run(logged.one).tags["kbuild.a"] == "2"


def test_a_writer_in_between_is_waited_for(logged: Logged) -> None:
    with closing(sqlite3.connect(_database(logged), isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        thread = Thread(target=DirectStore(tracking_uri=logged.uri).set_tags, args=(logged.one, {"kbuild.a": "1"}))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        other.execute("COMMIT")
        thread.join(20)
    assert Alone(tracking_uri=logged.uri).read_run(logged.one).tags["kbuild.a"] == "1"


def _other_revision(database: sqlite3.Connection, logged: Logged) -> None:
    database.execute("UPDATE alembic_version SET version_num = 'cafe'")


def _other_workspace(database: sqlite3.Connection, logged: Logged) -> None:
    if "workspace" not in {row[1] for row in database.execute("PRAGMA table_info(experiments)")}:
        pytest.skip("this MLflow knows no workspaces")
    database.execute("UPDATE experiments SET workspace = 'team'")


def _other_artifacts(database: sqlite3.Connection, logged: Logged) -> None:
    database.execute("UPDATE logged_models SET artifact_location = 's3://bucket/model'")


def _artifacts_elsewhere(database: sqlite3.Connection, logged: Logged) -> None:
    database.execute("UPDATE logged_models SET artifact_location = 'file:///no/such/folder'")


def _no_table(database: sqlite3.Connection, logged: Logged) -> None:
    database.execute("DROP TABLE logged_models")


@pytest.mark.parametrize(
    "change", [_other_revision, _other_workspace, _other_artifacts, _artifacts_elsewhere, _no_table]
)
def test_what_is_unfamiliar_is_left_to_mlflows_client(
    logged: Logged, tmp_path: Path, change: Callable[[sqlite3.Connection, Logged], None]
) -> None:
    with closing(sqlite3.connect(_database(logged))) as database:
        change(database, logged)
        database.commit()
    with pytest.raises(AssertionError, match="client was asked"):
        Alone(tracking_uri=logged.uri).fetch(ModelReference.parse(logged.one), tmp_path / "model")


def test_a_link_among_the_artifacts_is_left_to_mlflows_client(logged: Logged, tmp_path: Path) -> None:
    store = Alone(tracking_uri=logged.uri)
    copy = tmp_path / "copy"
    shutil.copytree(store.fetch(ModelReference.parse(logged.one), tmp_path / "into").root, copy)
    (copy / "link").symlink_to(copy / "MLmodel")
    with closing(sqlite3.connect(_database(logged))) as database:
        database.execute("UPDATE logged_models SET artifact_location = ?", (str(copy),))
        database.commit()
    with pytest.raises(AssertionError, match="client was asked"):
        store.fetch(ModelReference.parse(logged.one), tmp_path / "into")


def test_a_number_that_no_version_can_have_is_left_to_mlflows_client(logged: Logged, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="client was asked"):
        Alone(tracking_uri=logged.uri).fetch(ModelReference.parse(f"models:/churn/{10**20}"), tmp_path / "model")


def test_a_folder_that_may_not_be_read_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model/code").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("/code"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(PermissionError):
        open_local(str(tmp_path / "model")).place(tmp_path / "into")


@pytest.mark.parametrize(
    "uri", ["sqlite:///{folder}/none.db", "sqlite:///{folder}/mlflow.db?cache=shared", "postgresql://h/d", "mlruns"]
)
def test_other_stores_are_unfamiliar(logged: Logged, tmp_path: Path, uri: str) -> None:
    with pytest.raises(Unfamiliar), open_tracking(uri.format(folder=tmp_path)):
        pass


def test_a_database_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no MLflow database"):
        DirectStore(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").fetch(
            ModelReference.parse("f" * 32), tmp_path / "m"
        )
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("environ", "registry"),
    [
        ({"MLFLOW_TRACKING_AUTH": "kerberos"}, None),
        ({"MLFLOW_TRACKING_AWS_SIGV4": "true"}, None),
        ({"MLFLOW_WORKSPACE": "team"}, None),
        ({"MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true"}, None),
        ({"MLFLOW_REGISTRY_URI": "http://elsewhere"}, None),
        ({}, "http://elsewhere"),
    ],
)
def test_settings_that_change_how_a_store_is_reached_are_reasons(environ: dict[str, str], registry: str | None) -> None:
    assert list(reasons(environ, registry, "http://here"))


def test_settings_that_do_not_are_none() -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://here", "MLFLOW_TRACKING_TOKEN": "t", "MLFLOW_EXPERIMENT_NAME": "e"}
    assert list(reasons(environ, "http://here", "http://here")) == []


def test_a_plugin_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    points = metadata.EntryPoints(
        [metadata.EntryPoint("x", "company.plugin:Provider", "mlflow.request_header_provider")]
    )
    monkeypatch.setattr(metadata, "entry_points", lambda: points)
    tracking._plugins.cache_clear()
    try:
        assert list(reasons({}, None, "http://here")) == ["the plugin company.plugin:Provider is installed"]
    finally:
        tracking._plugins.cache_clear()


RUN = (
    '{"run": {"info": {"run_id": "%s", "artifact_uri": "mlflow-artifacts:/1/a", "lifecycle_stage": "active"},'
    ' "data": {"tags": [{"key": "a", "value": "1"}]}}}' % ("a" * 32)
)


class Server:
    """Answers every request with the same, and keeps the headers it was sent."""

    def __init__(self, status: int, body: str) -> None:
        seen = self.seen = []  # type: list[dict[str, str]]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(dict(self.headers))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            do_PUT = do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Server:
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic bWU6cHc="),
        ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
    ],
)
def test_servers_are_asked_with_mlflows_credentials(
    environ: dict[str, str], header: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with Server(200, RUN) as server:
        assert Alone(tracking_uri=server.uri).read_run("a" * 32) == RunFacts(tags={"a": "1"}, parameters={})
        assert server.seen[0].get("Authorization") == header


def test_credentials_are_also_read_from_mlflows_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = pw\n"
    )
    with Server(200, RUN) as server:
        Alone(tracking_uri=server.uri).read_run("a" * 32)
        assert server.seen[0]["Authorization"] == "Basic bWU6cHc="


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_of_two_authorities_the_one_of_mlflows_variable_is_taken(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/all.pem")
    with patient_session() as session:
        merged = session.merge_environment_settings("https://127.0.0.1", {}, None, None, None)
        assert merged["verify"] == "/all.pem"
        session.verify = "/own.pem"
        merged = session.merge_environment_settings("https://127.0.0.1", {}, None, None, None)
        assert merged["verify"] == "/own.pem"


def test_credentials_that_are_no_text_are_left_to_mlflows_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_bytes(b"[mlflow]\nmlflow_tracking_username = \xff\n")
    with pytest.raises(Unfamiliar), open_tracking("http://127.0.0.1:9"):
        pass


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, "{}"), (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}'), (200, "<html>"), (200, "[]"), (200, "{}")],
)
def test_answers_of_another_form_are_unfamiliar(status: int, body: str) -> None:
    with Server(status, body) as server, pytest.raises(Unfamiliar), open_tracking(server.uri) as store:
        store.run("a" * 32)


@pytest.mark.parametrize(("status", "body"), [(302, "{}"), (500, "{}"), (200, "<html>")])
def test_a_tag_counts_as_written_only_where_the_server_says_so(status: int, body: str) -> None:
    with Server(status, body) as server, pytest.raises(Unfamiliar), open_tracking(server.uri) as store:
        store.set_run_tags("a" * 32, {"kbuild.a": "1"})


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "with space", "hash#", "."])
def test_a_server_cannot_name_files_outside_the_folder(name: str, tmp_path: Path) -> None:
    body = f'{{"files": [{{"path": "{name}", "is_dir": false, "file_size": 1}}]}}'
    with Server(200, body) as server, pytest.raises(Unfamiliar), open_tracking(server.uri) as store:
        store.folder("mlflow-artifacts:/1/a").place(tmp_path)


def test_a_file_cut_short_is_not_taken(tmp_path: Path) -> None:
    body = '{"files": [{"path": "f", "is_dir": false, "file_size": 1}]}'
    with Server(200, body) as server, pytest.raises(Unfamiliar), open_tracking(server.uri) as store:
        store.folder("mlflow-artifacts:/1/a").place(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_that(
    logged: Logged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """MLflow's client fills it once more, and says that the path of the artifact is wrong."""

    def copyfile(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number), str(target))

    (tmp_path / "lock").write_text("x")
    store = Alone(tracking_uri=logged.uri)
    store.upload(logged.one, [tmp_path / "lock"], "kbuild")
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        store.download(logged.one, "kbuild/lock", tmp_path / "out")
    assert str(tmp_path) in caught.value.message and "make room" in str(caught.value.hint)


def test_a_folder_that_cannot_be_written_is_said_as_by_mlflows_client(logged: Logged, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("x")
    with closing(sqlite3.connect(_database(logged))) as database:
        database.execute("UPDATE runs SET artifact_uri = ?", (f"{tmp_path}/lock/artifacts",))
        database.commit()
    # MLflow keeps the folder of every run it met: this one is asked for here alone.
    for store in (DirectStore(tracking_uri=logged.uri), MlflowStore(tracking_uri=logged.uri)):
        with pytest.raises(OutputError, match="cannot be stored"):
            store.upload(logged.unfinished, [tmp_path / "lock"], "kbuild")
