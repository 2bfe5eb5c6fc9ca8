"""conda's own settings of where channels lie and how they are reached: ``.condarc`` files and ``CONDA_*`` variables.

What a conda on this machine would ask, the built-in solver and the downloads ask too. Formats: conda's docs, "Using the
.condarc conda configuration file" ("Searching for .condarc", "Expansion of environment variables") and "Settings".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kbuild.errors import ConfigurationError
from kbuild.untrusted import BrokenText, parse_yaml, read_text, why
from kbuild.urls.credentials import hide_credentials, permitted

# What conda's channel name "defaults" stands for on Linux, unless ``default_channels`` says otherwise.
_DEFAULTS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
_ALIAS = "https://conda.anaconda.org/"
# In each folder, in the order that conda reads them; of one setting the last file counts.
_FOLDERS = (
    "/etc/conda",
    "/var/lib/conda",
    "$CONDA_ROOT",
    "$XDG_CONFIG_HOME/conda",
    "~/.config/conda",
    "~/.conda",
    "~",
    "$CONDA_PREFIX",
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_OFF = ("false", "no", "off", "0", "n", "f")
_MAPS = ("custom_channels", "custom_multichannels", "proxy_servers")
_TEXTS = ("channel_alias", "channel_priority", "ssl_verify", "client_ssl_cert", "client_ssl_cert_key")
_ALIASES = {"verify_ssl": "ssl_verify", "client_cert": "client_ssl_cert", "client_cert_key": "client_ssl_cert_key"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaSettings:
    """``alias`` is the url that named channels lie below, ``custom`` the urls that some do, by name, ``multi`` names
    that stand for several channels. ``priority`` is conda's word, empty where nothing is said. ``verify`` is False
    where certificates are not to be checked, else the file or folder of those that are trusted, None for the usual
    ones. ``certificate`` is the client's own, with its key where that is in another file. ``proxies`` are urls by
    scheme, or by scheme and host."""

    alias: str = _ALIAS
    custom: Mapping[str, str] = field(default_factory=dict)
    multi: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"defaults": _DEFAULTS})
    priority: str = ""
    verify: str | bool | None = None
    certificate: tuple[str, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)

    def places(self, channels: Sequence[str]) -> list[str]:
        """The urls of channels, which are names, urls or paths; paths stay as they are."""
        return [self._place(each) for channel in channels for each in self.multi.get(channel, (channel,))]

    def _place(self, channel: str) -> str:
        if "://" in channel or channel.startswith("/"):
            return channel
        for url in self.multi.get("defaults", ()):  # conda knows each of them by its path
            if "://" in url and urlsplit(url).path.strip("/") == channel:
                return url
        name = channel.strip("/")
        parents = name.split("/")
        for count in range(len(parents), 0, -1):  # the longest name that is given a place, as conda looks for it
            base = self.custom.get("/".join(parents[:count]))
            if base is not None:
                return f"{base.rstrip('/')}/{name}"
        return f"{self.alias.rstrip('/')}/{name}"


def conda_settings(environ: Mapping[str, str]) -> CondaSettings:
    """What is set on this machine; variables count for more than files. Raises ConfigurationError."""
    said: dict[str, Any] = {}
    for path in _files(environ):
        for key, value in _said_in(path, environ).items():
            said[key] = {**said.get(key, {}), **value} if key in _MAPS else value
    for key in _TEXTS:
        said[key] = environ.get(f"CONDA_{key.upper()}") or said.get(key) or ""
    if listed := environ.get("CONDA_DEFAULT_CHANNELS"):
        said["default_channels"] = [each.strip() for each in listed.split(",") if each.strip()]
    verify, certificate = said["ssl_verify"], said["client_ssl_cert"]
    return CondaSettings(
        alias=said["channel_alias"] or _ALIAS,
        custom=said.get("custom_channels", {}),
        multi={**said.get("custom_multichannels", {}), "defaults": tuple(said.get("default_channels") or _DEFAULTS)},
        priority=said["channel_priority"].lower(),
        verify=False if verify.lower() in _OFF else verify if "/" in verify else None,
        certificate=tuple(filter(None, (certificate, said["client_ssl_cert_key"]))) if certificate else (),
        proxies=said.get("proxy_servers", {}),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class HiddenPlaces:
    """Where named channels lie, without the credentials that conda's settings give: ``environment`` holds these."""

    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def hide(self, url: str) -> str:
        """The url of a package with variables in place of credentials."""
        for place, text in self.texts.items():
            if url.startswith(f"{place.rstrip('/')}/"):
                return f"{text.rstrip('/')}{url[len(place.rstrip('/')) :]}"
        return hide_credentials(url, "CHANNEL")[0]


def hidden_places(channels: Sequence[str], environ: Mapping[str, str]) -> HiddenPlaces:
    """Of those channels that are names. Raises ConfigurationError."""
    names = [channel for channel in channels if "://" not in channel and not channel.startswith(("/", "$"))]
    texts, values = dict[str, str](), dict[str, str]()
    for place in conda_settings(environ).places(names) if names else ():
        text, secrets = hide_credentials(place, "CHANNEL", taken=values)
        if secrets:
            texts[place] = text
            values |= {**secrets, **permitted([text])}
    return HiddenPlaces(texts=texts, environment=values)


def environment_of(settings: CondaSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that a program which knows none of conda's settings reads instead; those that are set count for more,
    as they do for conda."""
    found: dict[str, str] = {}
    for scheme in ("http", "https"):
        name = f"{scheme}_proxy"
        proxy = settings.proxies.get(scheme)
        if proxy and not any(environ.get(each) for each in (name, name.upper(), "all_proxy", "ALL_PROXY")):
            found[name] = proxy
    bundle = environ.get("REQUESTS_CA_BUNDLE") or (settings.verify if isinstance(settings.verify, str) else None)
    if bundle and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & environ.keys():
        found["SSL_CERT_DIR" if os.path.isdir(bundle) else "SSL_CERT_FILE"] = bundle  # noqa: PTH112
    return found


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    for text in _FOLDERS:
        folder = _place_of(text, environ)
        if folder is None:
            continue
        yield folder / ".condarc"
        if text != "~":
            yield folder / "condarc"
            drop = folder / "condarc.d"
            if drop.is_dir():
                yield from sorted(each for each in drop.iterdir() if each.suffix in (".yml", ".yaml"))
    alone = _place_of("$CONDARC", environ)
    if alone is not None:
        yield alone


def _place_of(text: str, environ: Mapping[str, str]) -> Path | None:
    first, _, rest = text.partition("/")
    if first == "~" or first.startswith("$"):
        value = environ.get("HOME" if first == "~" else first[1:])
        if not value:
            return None
        home = environ.get("HOME", "~")
        return Path(re.sub(r"^~(?=/|$)", lambda _: home, value)) / rest
    return Path(text)


@lru_cache(maxsize=32)
def _parsed(path: Path, _changed: int, _size: int) -> Mapping[Any, Any]:
    try:
        found = parse_yaml(read_text(path))
    except (OSError, BrokenText) as error:
        raise _broken(path, why(error)) from error
    if not isinstance(found, dict | None):
        raise _broken(path, "it is no mapping")
    return {_ALIASES.get(key, key): value for key, value in (found or {}).items()}


def _said_in(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of the settings that matter here, its variables filled in; nothing where there is none."""
    try:
        status = path.stat()
    except OSError:
        return {}
    found = _parsed(path, status.st_mtime_ns, status.st_size)

    def text(key: str, value: Any) -> str:
        if not isinstance(value, str | int | bool):
            raise _broken(path, f"{key} is no text")
        return _VARIABLE.sub(lambda match: environ.get(match[1] or match[2], match[0]), str(value))

    said: dict[str, Any] = {key: text(key, found[key]) for key in _TEXTS if found.get(key) is not None}
    for key in _MAPS:
        given = found.get(key)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise _broken(path, f"{key} is no mapping")
        many = key == "custom_multichannels"
        said[key] = {
            str(name): _texts(key, value, text, path) if many else text(f"{key}.{name}", value)
            for name, value in given.items()
            if value is not None
        }
    if found.get("default_channels") is not None:
        said["default_channels"] = _texts("default_channels", found["default_channels"], text, path)
    return said


def _texts(key: str, value: Any, text: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _broken(path, f"{key} is no list")
    return tuple(text(key, each) for each in value)


def _broken(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"conda's settings in {path} cannot be read: {reason}",
        hint=f"mend it (conda config --validate names what is wrong) or move it away: mv {path} {path}.off",
    )
