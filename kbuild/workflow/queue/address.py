"""Where a queue is: a url of PostgreSQL's, whose user and password are shown nowhere.

Forms: PostgreSQL's manual, "Connection URIs" (libpq, 34.1.1.2). libpq itself says what is host and what password in
one: urllib ends the host at a ``/``, ``?`` or ``#`` of a password, and would show the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from kbuild.errors import ConfigurationError
from kbuild.untrusted import plain
from kbuild.urls.credentials import without_credentials
from kbuild.urls.secret_names import HIDDEN, names_secret

VARIABLE = "KBUILD_QUEUE"
_SCHEMES = ("postgresql://", "postgres://")
_FORM = "postgresql://user@host/database"
_ESCAPED = "write what is no letter or digit in user and password as %XX: @ is %40, / is %2F, % is %25"


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """``url`` is for connecting alone; its text is host, port and database."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        try:
            said = _parse(self.url)
        except ValueError:
            return "postgresql://"
        host = ",".join(
            f"[{each}]" if ":" in each else quote(each, safe="")
            for each in said.get("host", said.get("hostaddr", "")).split(",")
        )
        port = f":{said['port']}" if said.get("port") else ""
        return plain(f"postgresql://{host}{port}/{quote(said.get('dbname', ''), safe='')}")

    def conceal(self, text: str) -> str:
        """Somebody's words without the url's user and secrets; the database names the user in many of its own."""
        try:
            said = _parse(self.url)
        except ValueError:
            said = {}
        hidden = [value for name, value in said.items() if value and (name == "user" or names_secret(name))]
        for value in sorted({self.url, *hidden, *(quote(each, safe="") for each in hidden)}, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
        return without_credentials(text)


def read_address(stated: str | None, environ: Mapping[str, str]) -> QueueAddress:
    """The address that ``--queue`` states, or with none or an empty one the variable ``KBUILD_QUEUE``.

    Raises ConfigurationError: for none, for what is none, and for a password that the command line would show.
    """
    text = stated or environ.get(VARIABLE, "")
    if not text:
        raise ConfigurationError("no queue is named", hint=f"--queue {_FORM}, or export {VARIABLE}={_FORM}")
    source = "--queue" if stated else VARIABLE
    if not text.startswith(_SCHEMES):
        raise ConfigurationError(f"{source} is not a url of PostgreSQL", hint=f"such as {_FORM}")
    try:
        said = _parse(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{source} is not a url of PostgreSQL: {error}", hint=f"such as {_FORM}; {_ESCAPED}"
        ) from None
    if stated and any(map(names_secret, said)):
        raise ConfigurationError(
            "--queue holds a password, which everybody on this machine reads in the list of processes",
            hint=f"export {VARIABLE}=postgresql://… in its place, or keep the password in ~/.pgpass",
        )
    return QueueAddress(text)


def _parse(url: str) -> dict[str, str]:
    """libpq's parameters in a url; raises ValueError, which quotes nothing of it."""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        said = _parse_alone(url)
    else:
        try:
            said = {name: str(value) for name, value in conninfo_to_dict(url).items()}
        except ProgrammingError:
            raise ValueError("libpq does not read it") from None
    if not re.fullmatch(r"[0-9,]*", said.get("port", "")):
        raise ValueError("its port is not a number")
    # The rest of a user or password that holds one of these itself.
    if any("@" in said.get(name, "") for name in ("host", "hostaddr", "dbname")):
        raise ValueError("it has an @ more")
    return said


def _parse_alone(url: str) -> dict[str, str]:
    """Where psycopg is not installed: nothing is connected to then."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("its host or port is not one") from None
    found: dict[str, Any] = {
        "host": parts.hostname, "port": port, "user": parts.username, "password": parts.password,
        "dbname": unquote(parts.path[1:]),
    }  # fmt: skip
    return {name: str(value) for name, value in found.items() if value} | dict(parse_qsl(parts.query))
