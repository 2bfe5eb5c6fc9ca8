"""Credentials in urls: taken out, replaced by names of environment variables, put back only when a request is made.

A lock or a model names urls, and is not always one's own. So none but these variables is ever replaced, and each only
in a url of the host and port that its name tells: ``https://elsewhere/$AWS_SECRET_ACCESS_KEY`` would hand out a secret.
Nor is one sent in clear because a lock says ``http``: only where the user's own configuration does.

Where they stand: RFC 3986 section 3.2.1 (``user:password@``); for conda channels also ``/t/TOKEN/`` (conda's docs,
"Managing channels").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import count
from types import MappingProxyType
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from kbuild.errors import ConfigurationError
from kbuild.untrusted import plain

_TOKEN = re.compile(r"/t/(?P<token>[^/$]+)(?=/|$)")
# What lies in a folder is no server's: one that is called t is no token's.
_NO_FOLDERS = re.compile(rf"(?i:\bfile:[^\s'\"<>]*)|{_TOKEN.pattern}")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)\}|(?P<plain>[A-Za-z_]\w*))")
_URL = re.compile(r"(?i)https?://[^\s'\"<>]+")
_USERINFO = re.compile(r"(?<=://)[^/@\s'\"]+@")
_ODD = re.compile(r"[\\\x00-\x1f\x7f]")
_KINDS = ("INDEX", "CHANNEL")
# What pip's configuration names by http with credentials is sent so; ``…_HTTP=1`` tells it to every process.
_IN_CLEAR = "HTTP"
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1")
# Of other characters it is no matter of course which server they name: a backslash ends the host for urllib3 and not
# for urllib, and letters beyond ASCII become others on the way (RFC 3986 knows neither).
_PLAIN_HOST = re.compile(r"[A-Za-z0-9_.-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_PLAIN_URL = re.compile(r"[!-\[\]-~]+")
_WHAT = re.compile(r"(?:USER|PASSWORD|TOKEN)(?:_[0-9]+)?")
# A host's dots and its port's colon become one underscore, so a dash becomes two: a.b and a-b are different owners'.
_LETTERS = {".": "_", ":": "_", "-": "__", "_": "___"}
LOCAL_CHANNEL = "KBUILD_CHANNEL"
"""Names the url of the local channel; it may stand at the beginning of a url and nowhere else."""


def hide_credentials(
    url: str, kind: Literal["INDEX", "CHANNEL"], *, taken: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, dict[str, str]]:
    """The url with ``${KBUILD_<kind>_<HOST>_USER}``, ``…_PASSWORD`` and ``…_TOKEN`` in place of credentials, and the
    values of those variables.

    A name that ``taken`` gives another value gets a number: ``…_PASSWORD_2``. What already is such a variable of that
    host stays, any other dollar sign is part of the secret. Values
    of an index are percent-decoded (they become request headers), those of a channel are not (they go back into the
    url).
    """
    parts = urlsplit(url)
    if not parts.hostname:
        return url, {}
    prefix = _prefix(kind, parts.netloc)
    values: dict[str, str] = {}

    def hide(value: str, what: str) -> str:
        if not value or _is_own(value, url):
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
    if kind == "INDEX" and values and parts.scheme == "http":
        values[f"{prefix}_{_IN_CLEAR}"] = "1"
    return urlunsplit(parts._replace(netloc=f"{userinfo}{at}{host}", path=path)), values


def foreign_variables(url: str) -> list[str]:
    """What stands after a dollar sign in a url and is none of kbuild's own variables for its host, in their order.

    ``$KBUILD_CHANNEL`` is its own where the url begins with it.
    """
    rest = _strip_local(url)
    own = [match.span() for match in _VARIABLE.finditer(rest) if _is_own(match[0], url)]
    found = []
    for dollar in re.finditer(r"\$", rest):
        if not any(start <= dollar.start() < end for start, end in own):
            named = _VARIABLE.match(rest, dollar.start())
            found.append(named[0] if named else "$")
    return found


def check_variables(url: str) -> str:
    """The url; raises ConfigurationError for a dollar sign that ``foreign_variables`` names, and for what programs read
    as urls of different hosts (RFC 3986 has neither backslashes nor control characters)."""
    if _ODD.search(url):
        raise ConfigurationError(
            f"{plain(without_credentials(url))} holds a backslash or a control character: not every program reads the"
            " same host in it",
            hint="name the file by its plain url, and make the lock again",
        )
    foreign = foreign_variables(url)
    if foreign:
        host = urlsplit(url).netloc.rpartition("@")[2]
        raise ConfigurationError(
            f"{without_credentials(url)} holds {', '.join(dict.fromkeys(foreign))}: nothing is put into a url but the "
            "credentials of its own host",
            hint=f"leave it out; credentials of {host or 'a host'} are taken from pip's configuration, from ~/.netrc, "
            f"and from variables whose names begin with {_prefix('INDEX', host)}_ or {_prefix('CHANNEL', host)}_ "
            "(USER, PASSWORD, TOKEN)",
        )
    return url


def expand_variables(url: str, environ: Mapping[str, str]) -> str:
    """The url with kbuild's own variables for its host replaced, and ``$KBUILD_CHANNEL`` where it begins with it.

    Raises ConfigurationError naming those not set, as ``check_variables`` does, and for credentials that would be sent
    in clear though nothing configured here says so.
    """
    check_variables(url)
    _check_in_clear(url, environ)
    names = [match["braced"] or match["plain"] for match in _VARIABLE.finditer(url)]
    missing = sorted({name for name in names if name not in environ})
    if missing:
        raise ConfigurationError(
            f"{without_credentials(url)} needs environment variables that are not set: {', '.join(missing)}",
            hint="set them to the credentials of that server",
        )
    return _VARIABLE.sub(lambda match: environ[match["braced"] or match["plain"]], url)


def own_variables(url: str) -> list[str]:
    """The names of kbuild's own variables for the url's host that stand in it, and of those that let them be sent."""
    found = _VARIABLE.finditer(_strip_local(url))
    names = [match["braced"] or match["plain"] for match in found if _is_own(match[0], url)]
    return [*names, *_permissions(names, url)]


def _permissions(names: Iterable[str], url: str) -> list[str]:
    """The variables that permit to send others in clear; none for what is encrypted or does not leave this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or not parts.hostname or is_loopback(url):
        return []
    prefixes = [_prefix(kind, parts.netloc) for kind in _KINDS]
    return [f"{each}_{_IN_CLEAR}" for each in prefixes if any(name.startswith(f"{each}_") for name in names)]


def is_loopback(url: str) -> bool:
    """Whether what is sent there does not leave this machine."""
    return _LOOPBACK.fullmatch(urlsplit(url).hostname or "") is not None


def permitted(urls: Iterable[str]) -> dict[str, str]:
    """The variables that let credentials be sent in clear to those of these urls that say ``http``.

    For urls of the user's own configuration: who names a server so with the variables of its credentials wants them
    sent.
    """
    return {name: "1" for url in urls for name in own_variables(url) if name.endswith(f"_{_IN_CLEAR}")}


def _check_in_clear(url: str, environ: Mapping[str, str]) -> None:
    missing = [name for name in own_variables(url) if name.endswith(f"_{_IN_CLEAR}") and environ.get(name) != "1"]
    if missing:
        raise ConfigurationError(
            f"{without_credentials(url)} would send credentials unencrypted, and what is configured here does not",
            hint=f"let the url begin with https (kbuild lock --force makes the lock again); or, where that server has "
            f"none, name it by http in pip's configuration (a channel: in kbuild.yml or by --channel), or set "
            f"{missing[0]}=1",
        )


def _has_plain_server(url: str) -> bool:
    """Whether everybody who reads the url goes to the same server."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    return _PLAIN_HOST.fullmatch(host) is not None and _PLAIN_URL.fullmatch(url) is not None


def _prefix(kind: str, netloc: str) -> str:
    host = netloc.rpartition("@")[2].upper()
    return f"KBUILD_{kind}_{re.sub('[^A-Z0-9]', lambda match: _LETTERS.get(match[0], '_'), host)}"


def _is_own(text: str, url: str) -> bool:
    match = _VARIABLE.fullmatch(text)
    if match is None or not _has_plain_server(url):
        return False
    name = match["braced"] or match["plain"]
    before = [f"{_prefix(kind, urlsplit(url).netloc)}_" for kind in _KINDS if urlsplit(url).hostname]
    return any(name.startswith(each) and _WHAT.fullmatch(name.removeprefix(each)) for each in before)


def _strip_local(url: str) -> str:
    match = _VARIABLE.match(url)
    is_local = match is not None and (match["braced"] or match["plain"]) == LOCAL_CHANNEL
    return url[match.end() :] if match is not None and is_local else url


def split_credentials(url: str, environ: Mapping[str, str]) -> tuple[str, tuple[str, str] | None]:
    """An index's url without credentials, and its user and password, None where it has none; variables are replaced.

    They are kept apart because decoded values may hold what no url can. Raises ConfigurationError as
    ``expand_variables`` does.
    """
    parts = urlsplit(check_variables(url))
    userinfo, at, host = parts.netloc.rpartition("@")
    _check_in_clear(url, environ)
    bare = expand_variables(urlunsplit(parts._replace(netloc=host)), environ)
    if not at:
        return bare, None
    user, _, password = userinfo.partition(":")
    return bare, (_value(user, url, environ), _value(password, url, environ))


def _value(text: str, url: str, environ: Mapping[str, str]) -> str:
    if not _is_own(text, url):
        return text
    expand_variables(url, environ)  # tells all that are not set
    return environ[text.strip("${}")]


def is_for(place: str, url: str) -> bool:
    """Whether credentials that stand in the url ``place`` may go with a request to ``url``: it is the same server, in
    whatever letters its name is written, and what came by TLS is not sent in clear."""
    mine, theirs = urlsplit(place), urlsplit(url)
    same = mine.netloc.rpartition("@")[2].lower() == theirs.netloc.rpartition("@")[2].lower()
    return same and _has_plain_server(url) and theirs.scheme in (mine.scheme, "https")


def hide_in_text(text: str, kind: Literal["INDEX", "CHANNEL"] = "INDEX") -> str:
    """Any text with names of variables in place of its urls' credentials.

    pip fills such names in itself when it reads requirements (its docs, "Using environment variables"). What is no url
    to a parser, such as one with a ``#`` in its password, is blanked out up to its ``@``.
    """
    return _URL.sub(lambda found: _hide_one(found[0], kind), text)


def holds_credentials(text: str) -> bool:
    """Whether a url in a text holds credentials themselves, not names of variables."""
    text = text.replace("://***@", "://")  # blanked out by us
    return hide_in_text(hide_in_text(text), "CHANNEL") != text


def _hide_one(url: str, kind: Literal["INDEX", "CHANNEL"]) -> str:
    try:
        urlsplit(url).port  # noqa: B018  it is read here
    except ValueError:
        before, at, rest = url.rpartition("@")
        return f"{before.partition('://')[0]}://***@{rest}" if at else url
    return hide_credentials(url, kind)[0]


def without_user(url: str) -> str:
    """A url without its user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def without_credentials(text: str) -> str:
    """Any text, a program's words for instance, with the credentials in its urls blanked out."""
    return _NO_FOLDERS.sub(lambda found: "/t/***" if found["token"] else found[0], _USERINFO.sub("***@", text))
