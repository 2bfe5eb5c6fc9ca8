"""pip's settings, and those of how its indexes are reached as variables; what they do is done by ``pip_network``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit, urlunsplit

from kbuild.errors import ConfigurationError
from kbuild.process import Runner
from kbuild.urls.credentials import without_credentials

SETTINGS = ("proxy", "client-cert", "trusted-host")
"""As pip's configuration names them."""

_CHOICES = ("only-binary", "no-binary", "prefer-binary", "pre", "constraint")
# pip's order of precedence: its variables, the section of the command, the global section.
_SECTIONS = (":env:", "install", "global")

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
    completed = run([sys.executable, "-m", "pip", "config", "list"], env=environ)
    settings: dict[str, str] = {}
    said = " ".join(completed.stderr.split())
    if completed.returncode != 0 and said and "No module named" not in said:
        raise ConfigurationError(
            f"pip cannot read its configuration: {without_credentials(said)[:300]}",
            hint="mend that file (pip config debug lists all that pip reads), or name another in PIP_CONFIG_FILE",
        )
    if completed.returncode != 0:  # an environment without pip: its variables are all there is
        names = ("index-url", "extra-index-url", "find-links", "no-index", "cert", *SETTINGS, *_CHOICES)
        found = {name: environ.get(f"PIP_{name.upper().replace('-', '_')}") for name in names}
        return {name: value for name, value in found.items() if value}
    lines = (line.partition("=") for line in completed.stdout.splitlines() if "=" in line)
    by_key = {key: value for key, _, value in lines}
    for section in reversed(_SECTIONS):
        for key, value in by_key.items():
            if key.startswith(f"{section}."):
                settings[key.removeprefix(f"{section}.")] = _unquoted(value)
    return settings


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
