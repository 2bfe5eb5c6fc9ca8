"""Credentials in urls: taken out, replaced by names of environment variables, put back only when a request is made.

Where they stand: RFC 3986 section 3.2.1 (``user:password@``); for conda channels also ``/t/TOKEN/`` (conda's docs,
"Managing channels").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from types import MappingProxyType
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from kbuild.errors import ConfigurationError

_TOKEN = re.compile(r"/t/(?P<token>[^/$]+)(?=/|$)")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)\}|(?P<plain>[A-Za-z_]\w*))")
_USERINFO = re.compile(r"(?<=://)[^/@\s'\"]+@")


def hide_credentials(
    url: str, kind: Literal["INDEX", "CHANNEL"], *, taken: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, dict[str, str]]:
    """The url with ``${KBUILD_<kind>_<HOST>_USER}``, ``…_PASSWORD`` and ``…_TOKEN`` in place of credentials, and the
    values of those variables.

    A name that ``taken`` gives another value gets a number: ``…_PASSWORD_2``. What already is a variable stays. Values
    of an index are percent-decoded (they become request headers), those of a channel are not (they go back into the
    url).
    """
    parts = urlsplit(url)
    if not parts.hostname:
        return url, {}
    prefix = f"KBUILD_{kind}_{re.sub('[^A-Z0-9]+', '_', parts.netloc.rpartition('@')[2].upper())}"
    values: dict[str, str] = {}

    def hide(value: str, what: str) -> str:
        if not value or value.startswith("$"):
            return value
        value = unquote(value) if kind == "INDEX" else value
        known = {**taken, **values}
        numbered = (f"{prefix}_{what}" + (f"_{number}" if number > 1 else "") for number in count(1))
        name = next(each for each in numbered if known.get(each, value) == value)
        values[name] = value
        return f"${{{name}}}"

    userinfo, at, host = parts.netloc.rpartition("@")
    if at:
        user, colon, password = userinfo.partition(":")
        userinfo = hide(user, "USER") + colon + hide(password, "PASSWORD")
    path = parts.path
    if kind == "CHANNEL":
        path = _TOKEN.sub(lambda match: f"/t/{hide(match['token'], 'TOKEN')}", path)
    return urlunsplit(parts._replace(netloc=f"{userinfo}{at}{host}", path=path)), values


def expand_variables(text: str, environ: Mapping[str, str]) -> str:
    """``text`` with each ``$NAME`` and ``${NAME}`` replaced; raises ConfigurationError naming those not set."""
    names = [match["braced"] or match["plain"] for match in _VARIABLE.finditer(text)]
    missing = sorted({name for name in names if name not in environ})
    if missing:
        raise ConfigurationError(
            f"{text} needs environment variables that are not set: {', '.join(missing)}",
            hint="set them to the credentials of that server",
        )
    return _VARIABLE.sub(lambda match: environ[match["braced"] or match["plain"]], text)


def split_credentials(url: str, environ: Mapping[str, str]) -> tuple[str, tuple[str, str] | None]:
    """An index's url without credentials, and its user and password, None where it has none; variables are replaced.

    They are kept apart because decoded values may hold what no url can. Raises ConfigurationError as
    ``expand_variables`` does.
    """
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return expand_variables(url, environ), None
    user, _, password = userinfo.partition(":")
    bare = expand_variables(urlunsplit(parts._replace(netloc=host)), environ)
    return bare, (expand_variables(user, environ), expand_variables(password, environ))


def without_credentials(text: str) -> str:
    """Any text, a program's words for instance, with the credentials in its urls blanked out."""
    return _TOKEN.sub("/t/***", _USERINFO.sub("***@", text))
