"""Where a queue is: a url of PostgreSQL's, whose password is written nowhere.

Forms: PostgreSQL's manual, "Connection URIs" (libpq, 34.1.1.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from kbuild.errors import ConfigurationError
from kbuild.urls.credentials import without_credentials
from kbuild.urls.secret_names import names_secret

VARIABLE = "KBUILD_QUEUE"
_SCHEMES = ("postgresql", "postgres")
_FORM = "postgresql://user@host/database"


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """``url`` is for connecting alone; its text is the url without user and password."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return without_credentials(parts._replace(query="", fragment="").geturl()).replace("***@", "")


def read_address(stated: str | None, environ: Mapping[str, str]) -> QueueAddress:
    """The address that ``--queue`` states, or with none or an empty one the variable ``KBUILD_QUEUE``.

    Raises ConfigurationError: for none, for what is none, and for a password that the command line would show.
    """
    text = stated or environ.get(VARIABLE, "")
    if not text:
        raise ConfigurationError("no queue is named", hint=f"--queue {_FORM}, or export {VARIABLE}={_FORM}")
    source = "--queue" if stated else VARIABLE
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  it is read here
        is_secret = parts.password is not None or any(names_secret(name) for name, _ in parse_qsl(parts.query))
    except ValueError as error:
        raise ConfigurationError(f"{source} is not a url: {_reason(error)}", hint=f"such as {_FORM}") from error
    if parts.scheme not in _SCHEMES:
        shown = without_credentials(parts._replace(query="", fragment="").geturl())
        raise ConfigurationError(f"{source} {shown} is not a url of PostgreSQL", hint=f"such as {_FORM}")
    if stated and is_secret:
        raise ConfigurationError(
            "--queue holds a password, which everybody on this machine reads in the list of processes",
            hint=f"export {VARIABLE}=postgresql://… in its place, or keep the password in ~/.pgpass",
        )
    return QueueAddress(text)


def _reason(error: ValueError) -> str:
    """Without what urllib quotes of the url."""
    return "its port is not a number" if "ort" in str(error) else "its host is not one"
