"""pip's settings, and those of how its indexes are reached as variables; what they do is done by ``pip_network``."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from kbuild.cache.notes import derive_key, read_vouched, write_vouched
from kbuild.digest import digest_json
from kbuild.errors import ConfigurationError
from kbuild.files import user_folder
from kbuild.process import Completed, Runner
from kbuild.urls.credentials import without_credentials

SETTINGS = ("proxy", "client-cert", "trusted-host")
"""As pip's configuration names them."""

_CHOICES = ("only-binary", "no-binary", "prefer-binary", "pre", "constraint")
# pip's order of precedence: its variables, the section of the command, the global section.
_SECTIONS = (":env:", "install", "global")

_READ = ("index-url", "extra-index-url", "find-links", "no-index", "cert", *SETTINGS, *_CHOICES)
# pip's own setting "quiet" takes as many away, and would hide all that is listed.
_ASK = ("-m", "pip", "config", "list", "-v", "-v", "-v")
# What pip says of each file that it reads, or would read (pip/_internal/configuration.py).
_FILE = re.compile(r"^For variant '\w+', will try loading '(.+)'$", re.MULTILINE)
# Variables that say which files these are, and whose pip is asked.
_DECIDES = ("PIP_", "PYTHON", "XDG_", "HOME", "VIRTUAL_ENV")
_JUST_NOW = 2.0  # seconds; a file may have changed since pip read it, within one tick of its file system's clock
_MOST_KEPT = 100

PROXY, CERTIFICATE, TRUSTED = (f"PIP_{name.upper().replace('-', '_')}" for name in SETTINGS)


def network_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables for processes and sessions that talk to the indexes, of pip's settings by name."""
    pairs = zip((PROXY, CERTIFICATE, TRUSTED), SETTINGS, strict=True)
    return {variable: " ".join(settings[name].split()) for variable, name in pairs if settings.get(name)}


def read_pip_settings(run: Runner, environ: Mapping[str, str]) -> dict[str, str]:
    """What this interpreter's pip is configured with, by name.

    Raises ConfigurationError where pip cannot read its configuration: without it others would be asked for packages
    than it names.
    """
    return _settings(run([sys.executable, *_ASK], env=environ), environ)


def kept_pip_settings(run: Runner, environ: Mapping[str, str]) -> dict[str, str]:
    """The same, asked of pip again where a file that it reads or a variable has changed: each asking starts Python.

    It is kept with this user's state, unless it has credentials, or urls of variables, which may be secrets.
    """
    place = None
    with contextlib.suppress(OSError):  # a user without a home
        place = _place(environ)
        if place is not None and (known := _read_kept(place)) is not None:
            return known
    begun = time.time()
    completed = run([sys.executable, *_ASK], env=environ)
    settings = _settings(completed, environ)
    if place is not None and completed.returncode == 0 and not _has_secrets(settings, environ):
        with contextlib.suppress(OSError):  # nothing can be written there
            _keep(place, settings, _FILE.findall(completed.stdout), before=begun - _JUST_NOW)
    return settings


def _settings(completed: Completed, environ: Mapping[str, str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    said = " ".join(completed.stderr.split())
    if completed.returncode != 0 and said and "No module named" not in said:
        raise ConfigurationError(
            f"pip cannot read its configuration: {without_credentials(said)[:300]}",
            hint="mend that file (pip config debug lists all that pip reads), or name another in PIP_CONFIG_FILE",
        )
    if completed.returncode != 0:  # an environment without pip: its variables are all there is
        found = {name: environ.get(f"PIP_{name.upper().replace('-', '_')}") for name in _READ}
        return {name: value for name, value in found.items() if value}
    lines = (line.partition("=") for line in completed.stdout.splitlines() if "=" in line)
    by_key = {key: value for key, _, value in lines}
    for section in reversed(_SECTIONS):
        for key, value in by_key.items():
            if key.startswith(f"{section}."):
                settings[key.removeprefix(f"{section}.")] = _unquoted(value)
    return settings


def _place(environ: Mapping[str, str]) -> Path | None:
    """Where the settings of this interpreter's pip with these variables are kept; None where there is no pip."""
    pip = importlib.util.find_spec("pip")
    if pip is None or pip.origin is None:
        return None
    variables = sorted((name, value) for name, value in environ.items() if name.startswith(_DECIDES))
    relative = os.getcwd() if "PIP_CONFIG_FILE" in environ else None  # noqa: PTH109  as it is named
    # Who states a key in one shell alone has two: each believes its own.
    key = derive_key("pip settings")
    asked = [sys.executable, sys.prefix, pip.origin, _state_of(pip.origin), variables, relative, key]
    return user_folder("state") / "pip-settings" / digest_json(asked).hex


def _read_kept(place: Path) -> dict[str, str] | None:
    with contextlib.suppress(FileNotFoundError):
        noted = json.loads(read_vouched(place))
        if all(_state_of(path) == state for path, state in noted["files"].items()):
            return dict(noted["settings"])
    return None


def _keep(place: Path, settings: Mapping[str, str], paths: Iterable[str], *, before: float) -> None:
    files = {path: _state_of(path) for path in paths}
    changes = [state[-1] for state in files.values() if state is not None]
    if not files or any(changed > before * 1e9 for changed in changes):
        return
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    others = list(place.parent.iterdir())
    for each in others if len(others) >= _MOST_KEPT else ():
        each.unlink(missing_ok=True)
    used = {name: value for name, value in settings.items() if name in _READ}
    write_vouched(place, json.dumps({"files": files, "settings": used}).encode())


def _state_of(path: str) -> list[int] | None:
    """What changes with a file, at last when that was, in nanoseconds since 1970; None for one that is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _has_secrets(settings: Mapping[str, str], environ: Mapping[str, str]) -> bool:
    return any("@" in value for value in settings.values()) or any(
        "://" in value for name, value in environ.items() if name.startswith("PIP_")
    )


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return value


def left_to_netrc(url: str) -> str:
    """The url without a user whose password ~/.netrc has, as pip looks for it: what is there is sent to such a host."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at or ":" in user or not parts.scheme.startswith("http"):
        return url
    from requests.utils import get_netrc_auth

    found = get_netrc_auth(f"{parts.scheme}://{host}/")
    return urlunsplit(parts._replace(netloc=host)) if found is not None and found[0] == unquote(user) else url
