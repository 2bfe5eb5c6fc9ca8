"""What the commands of a queue refuse, and what they say where something lacks."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from kbuild.api.fleet.queueing import open_queue, work
from kbuild.cli.image import command as image
from kbuild.cli.queue import command as queue
from kbuild.cli.queued import entry_of
from kbuild.cli.watch import command as watch
from kbuild.cli.worker import command as worker
from kbuild.errors import ConfigurationError, ExtraNotInstalled, QueueUnavailable
from kbuild.workflow.queue.address import read_address
from kbuild.workflow.queue.states import JobState

URL = "postgresql://127.0.0.1:9/none"
PUSH = "registry.example/{name}:{version}"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--all-registered", "--queue", URL], "--queue needs --push"),
        (["--all-registered", "--queue", URL, "--push", PUSH, "--jobs", "2"], "--jobs is of kbuild worker"),
        (["--all-registered", "--queue", URL, "--push", PUSH, "--shard", "1/2"], "machines without a queue"),
        (["--all-registered", "--queue", URL, "--push", PUSH, "--report", "r.json"], "add --wait"),
        (["--all-registered", "--wait"], "--wait and --priority are of --queue"),
        (["--all-registered", "--priority", "3"], "--wait and --priority are of --queue"),
    ],
)
def test_what_no_queue_takes_is_refused(argv: list[str], says: str) -> None:
    done = CliRunner().invoke(image, argv)
    assert done.exit_code == 2 and says in done.stderr


@pytest.mark.parametrize(
    ("command", "argv", "says"),
    [
        (queue, [], "list, show, retry, cancel, prune, or --serve"),
        (queue, ["retry", "--queue", URL], "give JOBS, or --failed"),
        (queue, ["cancel", "1", "--waiting", "--queue", URL], "give JOBS, or --waiting"),
        (queue, ["prune", "--status", "waiting", "--queue", URL], "'waiting' is not one of 'done', 'failed'"),
        (queue, ["prune", "--days", "-1", "--queue", URL], "-1.0 is not in the range"),
        (queue, ["show", "0", "--queue", URL], "0 is not in the range"),
        (watch, ["--queue", URL], "--queue needs --push"),
        (worker, ["--no-audit", "--fail-on", "high"], "--fail-on is of the audit"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused(command: Any, argv: list[str], says: str) -> None:
    done = CliRunner().invoke(command, argv)
    assert done.exit_code == 2 and says in done.stderr


def test_a_queue_that_is_not_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("procrastinate")
    monkeypatch.setenv("KBUILD_QUEUE", "postgresql://bob:hunter2@127.0.0.1:9/none")
    done = CliRunner().invoke(queue, ["list"])
    error = done.exception
    assert isinstance(error, QueueUnavailable) and error.exit_code == 63 and error.hint
    assert "postgresql://127.0.0.1:9/none does not answer" in error.message and "\n" not in error.message
    assert "refused" in error.message and "start it" in error.hint and "password" not in error.hint
    assert "hunter2" not in f"{error.message}{error.hint}{done.output}"


def test_a_database_that_goes_before_the_worker_begins_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("procrastinate")
    import psycopg
    from procrastinate import App
    from procrastinate.testing import InMemoryConnector

    from kbuild.workflow.queue import database
    from kbuild.workflow.queue.address import QueueAddress
    from kbuild.workflow.queue.worker import Worker

    async def run(self: Worker) -> None:
        raise psycopg.OperationalError('password authentication failed for user "bob"')

    monkeypatch.setattr(database, "open_app", lambda *_, **__: App(connector=InMemoryConnector()))
    monkeypatch.setattr(Worker, "run", run)
    session: Any = SimpleNamespace(voice=SimpleNamespace(complain=None))
    watcher: Any = None
    with pytest.raises(QueueUnavailable, match=r'h/d refuses user or password: .* user "\*\*\*"'):
        work(QueueAddress("postgresql://bob@h/d"), session=session, watcher=watcher)


# The words are those of PostgreSQL 15's server, of libpq 17 and of psycopg 3.2, each met by hand.
_AT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("words", "says", "next_step"),
    [
        (_AT + 'FATAL:  password authentication failed for user "bob"', "refuses user or password", "~/.pgpass"),
        (_AT + 'FATAL:  role "bob" does not exist', "refuses user or password", "~/.pgpass"),
        (_AT + "fe_sendauth: no password supplied", "asks for a password", "~/.pgpass"),
        (_AT + 'FATAL:  database "none" does not exist', "is not there", "createdb"),
        (_AT + 'FATAL:  permission denied for database "none"', "is not for this user", "GRANT"),
        (_AT + 'FATAL:  no pg_hba.conf entry for host "::1", user "bob"', "lets nobody in from here", "pg_hba.conf"),
        (_AT + "server does not support SSL, but SSL was required", "agrees on no TLS", "sslmode"),
        (_AT + "SSL error: certificate verify failed", "agrees on no TLS", "sslmode"),
        ('connection is bad: invalid sslmode value: "foo"', "is not asked", "sslmode"),
        (_AT + "FATAL:  sorry, too many clients already", "does not answer", "max_connections"),
        (_AT + "FATAL:  the database system is starting up", "does not answer", "again"),
        (_AT + "Connection refused\n\tIs the server running", "does not answer", "start it"),
        ('connection is bad: connection to server on socket "/x" failed: No such file', "does not answer", "start it"),
        ("failed to resolve host 'q.example': [Errno -2] Name or service not known", "has an unknown host", "name"),
        ("connection timeout expired", "does not answer", "start it"),
    ],
)
def test_each_reason_has_its_own_words_and_next_step(words: str, says: str, next_step: str) -> None:
    pytest.importorskip("procrastinate")
    import psycopg

    from kbuild.workflow.queue.address import QueueAddress
    from kbuild.workflow.queue.database import explained

    with pytest.raises(QueueUnavailable) as caught, explained(QueueAddress("postgresql://bob@h/none")):
        raise psycopg.OperationalError(words)
    assert says in caught.value.message and next_step in str(caught.value.hint)
    assert "bob" not in f"{caught.value.message}{caught.value.hint}" and "\n" not in caught.value.message


def test_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBUILD_QUEUE", raising=False)
    for command, argv in ((queue, ["list"]), (worker, [])):
        error = CliRunner().invoke(command, argv).exception
        assert isinstance(error, ConfigurationError) and "KBUILD_QUEUE" in str(error.hint)


def test_what_a_worker_starts_does_not_inherit_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_QUEUE", "postgresql://bob:hunter2@127.0.0.1:9/none")
    seen: list[Any] = []

    def work(address: Any, **options: Any) -> None:
        seen.append((address.url, [name for name, value in os.environ.items() if "hunter2" in value]))

    monkeypatch.setattr("kbuild.cli.worker.work", work)
    done = CliRunner().invoke(worker, [])
    assert seen == [("postgresql://bob:hunter2@127.0.0.1:9/none", [])]
    assert "hunter2" not in done.output


def test_what_lacks_is_said_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "kbuild.workflow.queue.board":
            raise ModuleNotFoundError("No module named 'procrastinate'", name="procrastinate")
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExtraNotInstalled) as caught, open_queue(URL):
        pass
    assert "procrastinate" in caught.value.message and caught.value.hint == "pip install 'kbuild[build,queue]'"


def test_what_lacks_is_said_before_the_registry_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def lacking(extra: str, **_: object) -> None:
        raise ExtraNotInstalled(f"the {extra} needs procrastinate, which is not installed")

    monkeypatch.setattr("kbuild.cli.extras.check_extra", lacking)
    monkeypatch.setattr("kbuild.cli.image._list_models", lambda *_: pytest.fail("asked"))
    argv = ["--all-registered", "--push", PUSH, "--queue", URL]
    with pytest.raises(ExtraNotInstalled, match="the queue needs procrastinate"):
        image.main(argv, standalone_mode=False)


def test_a_worker_without_what_it_works_with_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "kbuild.workflow.queue.worker":
            raise ModuleNotFoundError("No module named 'procrastinate'", name="procrastinate")
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExtraNotInstalled, match="the queue needs the Python package procrastinate"):
        work(read_address(URL, {}), session=None, watcher=None)  # type: ignore[arg-type]


def test_a_report_tells_the_last_attempt_unless_it_was_cancelled_since() -> None:
    entry = {"model": "m", "status": "built", "seconds": 1.0, "image": "x@sha256:1"}
    done = JobState(id=4, model="m", status="done", worker="w", entry=entry)
    assert entry_of(done) == {**entry, "job": 4, "worker": "w"}
    cancelled = JobState(id=4, model="m", status="cancelled", entry={**entry, "status": "failed"})
    assert entry_of(cancelled) == {"model": "m", "seconds": 0.0, "status": "stopped"}
    untold = JobState(id=6, model="m", status="failed", worker="w")
    assert entry_of(untold) == {**entry_of(cancelled), "job": 6, "worker": "w"}
