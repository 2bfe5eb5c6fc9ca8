"""The connection to a queue, and the tables in it: procrastinate's, and one of our own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.schema import SchemaManager

from kbuild.errors import QueueUnavailable
from kbuild.workflow.queue.address import QueueAddress
from kbuild.workflow.queue.ledger import SCHEMA, TABLES

QUEUE = "kbuild"
TASK = "kbuild.image"
_PATIENCE = 10  # seconds for the database to answer
# Two that come to an empty database at once: one makes the tables. Any number that others do not take.
_MAKING = 0x6B6275696C64
_MENDED = "start it, or check host and port; kbuild goes by libpq's rules (PGHOST, PGPORT, …)"
_LET_IN = "check user and password: KBUILD_QUEUE=postgresql://USER:PASSWORD@HOST/DATABASE, PGPASSWORD or ~/.pgpass"
_TLS = "check sslmode and sslrootcert, in the url or as PGSSLMODE and PGSSLROOTCERT"
# What is wrong and what to do, by the words of the server, of libpq and of psycopg: of a connection that did not come
# about libpq tells no SQLSTATE. A server that speaks another language has its own words, and the general advice.
_REASONS = (
    (
        "password authentication failed|role .* does not exist|authentication failed",
        "refuses user or password",
        _LET_IN,
    ),
    ("no password supplied", "asks for a password, and none was given", _LET_IN),
    ("database .* does not exist", "is not there", "createdb -h HOST DATABASE, or name another one"),
    ("permission denied for database", "is not for this user", "GRANT CONNECT, CREATE ON DATABASE … TO its user"),
    ("pg_hba.conf", "lets nobody in from here", "its pg_hba.conf has to allow this machine, user and database, or TLS"),
    ("invalid .* value", "is not asked", f"{_TLS}; other parameters are in libpq's manual, Parameter Key Words"),
    ("SSL|certificate", "agrees on no TLS", _TLS),
    (
        "too many clients|remaining connection slots",
        "does not answer",
        "raise its max_connections, or run fewer workers",
    ),
    ("is (starting up|shutting down)|recovery", "does not answer", "try again when it is up"),
    ("failed to resolve host|could not translate host name", "has an unknown host", "check the name of its host"),
)
# procrastinate's docs, "Migrate the Procrastinate schema".
_MIGRATED = (
    'stop what uses it, then: cat "$(procrastinate schema --migrations-path)"/03.04.00_*.sql | psql; before that the '
    "files of releases that it has not had either"
)


def open_app(address: QueueAddress, *, program: str) -> App:
    """procrastinate on that database, not yet open; makes the tables where they are missing.

    ``program`` is what the database lists the connections as. Raises QueueUnavailable.
    """
    for name in ("procrastinate", "psycopg"):
        # What goes wrong is told by us, in a line; they log it with its traceback.
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    arguments = {"connect_timeout": _PATIENCE, "application_name": program}
    with explained(address), psycopg.connect(address.url, autocommit=True, **arguments) as connection:
        if not all(_has(connection, table) for table in TABLES):
            _make_tables(connection)
        _check_tables(connection, address)
    connector = PsycopgConnector(
        conninfo=address.url, min_size=1, max_size=4, timeout=_PATIENCE, kwargs=arguments, name=program,
        # The pool pauses longer and longer: after a long absence each worker would come back minutes after another.
        reconnect_timeout=_PATIENCE,
    )  # fmt: skip
    return App(connector=connector)


def _make_tables(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    # The lock is the session's: a transaction that waited for it would still see the catalog of before.
    connection.execute("SELECT pg_advisory_lock(%s)", (_MAKING,))
    if not _has(connection, "procrastinate_jobs"):
        connection.execute(SchemaManager.get_schema())
    connection.execute(SCHEMA)


def _check_tables(connection: psycopg.Connection[tuple[object, ...]], address: QueueAddress) -> None:
    """Raises QueueUnavailable for tables that an older procrastinate has made: it leaves them as they are."""
    found = connection.execute("SELECT to_regproc('procrastinate_retry_job_v2') IS NOT NULL").fetchone()
    if found != (True,):
        raise QueueUnavailable(f"the tables of the queue {address} are of a procrastinate before 3.4", hint=_MIGRATED)


def _has(connection: psycopg.Connection[tuple[object, ...]], table: str) -> bool:
    return bool(connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone() == (True,))


@contextmanager
def explained(address: QueueAddress) -> Iterator[None]:
    """Errors of the database as QueueUnavailable, in a line."""
    try:
        yield
    except (psycopg.Error, ConnectorException) as error:
        reason = address.conceal(reason_of(error))
        if is_away(error):
            said, hint = _sort(reason)
            raise QueueUnavailable(f"the queue {address} {said}: {reason}", hint=hint) from error
        raise QueueUnavailable(
            f"the queue {address} refuses: {reason}", hint="look at the database's log; all sides need one release"
        ) from error


def _sort(reason: str) -> tuple[str, str]:
    """What a queue that cannot be talked to does, and what mends it."""
    found = ((said, hint) for words, said, hint in _REASONS if re.search(words, reason))
    return next(found, ("does not answer", _MENDED))


def is_away(error: psycopg.Error | ConnectorException) -> bool:
    """Whether the database may answer the same question later; else it refuses what is asked."""
    away = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
    return isinstance(error.__cause__ or error, away)


def reason_of(error: psycopg.Error | ConnectorException) -> str:
    """The database's words, in a line; they may name the user."""
    return " ".join(str(error.__cause__ or error).split())
