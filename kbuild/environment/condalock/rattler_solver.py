"""The built-in conda solver: conda's ``create --dry-run --json`` face over py-rattler, run as its own process.

conda-lock calls it as ``EXE create --prefix P --dry-run --json --override-channels --channel URL... SPEC...``, names
the platform in ``CONDA_SUBDIR`` and the virtual packages in ``CONDA_OVERRIDE_*``, and reads
``{"actions": {"FETCH": [...], "LINK": [...]}}``, or ``{"message": ...}`` after an exit code other than 0
(conda_lock/conda_solver.py ``solve_specs_for_arch``, conda_lock/invoke_conda.py ``_get_conda_flags``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from kbuild.environment.conda_settings import CondaSettings, conda_settings, environment_of
from kbuild.environment.index.channel_bounds import watch_channels
from kbuild.errors import ConfigurationError
from kbuild.urls.credentials import without_credentials

_OVERRIDE = "CONDA_OVERRIDE_"


def main(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Answer one call; returns the exit code and what to print on stdout."""
    call = _parser().parse_intermixed_args(list(argv))
    if call.command != "create":
        return 1, _failure("CommandError", f"the built-in solver has no command {call.command!r}")
    # Not before they are needed: others need the names of channels alone.
    import asyncio

    from rattler.exceptions import GatewayError, InvalidMatchSpecError, SolverError

    try:
        settings = conda_settings(environ)
        if any("://" in place and not place.startswith("file:") for place in settings.places(call.channel)):
            watch_channels(lambda why: _end(1, _failure("CondaHTTPError", _cut(why, settings.places(call.channel)))))
        os.environ.update(environment_of(settings, environ))
        records = asyncio.run(_solve(call.channel, call.specs, environ, settings))
    except ConfigurationError as error:
        return 1, _failure("ConfigurationLoadError", error.message)
    except SolverError as error:
        return 1, _failure("UnsatisfiableError", str(error))
    except InvalidMatchSpecError as error:
        return 1, _failure("InvalidMatchSpec", str(error))
    except GatewayError as error:
        return 1, _failure("CondaHTTPError", _with_certificate(str(error), settings))
    return 0, json.dumps({"success": True, "actions": {"FETCH": records, "LINK": records}})


def _cut(why: str, places: Sequence[str]) -> str:
    """What is said of channels that came to no end; which of several it is nobody knows."""
    asked = [place for place in places if "://" in place and not place.startswith("file:")]
    named = asked[0] if len(asked) == 1 else " or ".join(place.partition("://")[2] for place in asked)
    return f"{without_credentials(named)}\nCaused by: {why}"


def _with_certificate(said: str, settings: CondaSettings) -> str:
    """What is said of a channel; rattler's client has no certificate of its own to show (py-rattler 0.28)."""
    if not settings.certificate or "https://" not in said:
        return said
    return (
        f"{said}\nCaused by: the built-in solver cannot show the client_ssl_cert of conda's settings; micromamba, mamba"
        " and conda can, and are taken where one is installed"
    )


async def _solve(
    channels: Sequence[str], specs: Sequence[str], environ: Mapping[str, str], settings: CondaSettings
) -> list[dict[str, Any]]:
    from rattler import (
        BuildString,
        Channel,
        ChannelConfig,
        ChannelPriority,
        Gateway,
        GenericVirtualPackage,
        MatchSpec,
        PackageName,
        Version,
        solve,
    )
    from rattler.config import Config
    from rattler.networking import Client

    config = ChannelConfig(settings.alias)
    disabled = settings.priority in ("disabled", "false")
    unsafe = settings.verify is False and not environ.get("REQUESTS_CA_BUNDLE")  # which counts for more, for conda too
    records = await solve(
        sources=[Channel(url, config) for url in settings.places(channels)],
        # Its own default asks without the credentials of ~/.netrc.
        gateway=Gateway(
            client=Client.from_config(Config.from_toml("tls-no-verify = true")) if unsafe else Client.default_client()
        ),
        # Lenient: conda-lock writes an exact version without an operator.
        specs=[MatchSpec(_of_url(spec, channels, environ, settings), strict=False) for spec in specs],
        platforms=[environ["CONDA_SUBDIR"], "noarch"],
        virtual_packages=[
            GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
            for name, version, build in overridden_packages(environ)
        ],
        channel_priority=ChannelPriority.Disabled if disabled else ChannelPriority.Strict,
    )
    return [json.loads(record.to_json()) for record in records]


def _of_url(spec: str, channels: Sequence[str], environ: Mapping[str, str], settings: CondaSettings) -> str:
    """A spec of a channel's name (``conda-forge::x``) with the url of the listed channel that has it: conda knows a
    mirror by its name (its docs, "Channels", on ``channel_alias``), rattler takes a name for the public channel's."""
    name, apart, rest = spec.partition("::")
    if not apart or "://" in name:
        return spec
    plain = name.removesuffix("/noarch").removesuffix(f"/{environ['CONDA_SUBDIR']}")
    for channel in channels:
        if channel == plain or channel.rstrip("/").endswith(f"/{plain}"):
            return f"{settings.places([channel])[0]}::{rest}"
    return spec


def overridden_packages(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, version and build of each ``CONDA_OVERRIDE_*`` that is set.

    ``CONDA_OVERRIDE_ARCHSPEC`` holds a build string, the others hold a version (conda's docs, "Managing virtual
    packages", "Overriding detected packages").
    """
    found = []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(_OVERRIDE) or not value:
            continue
        name = f"__{variable.removeprefix(_OVERRIDE).lower()}"
        found.append((name, "1", value) if name == "__archspec" else (name, value, "0"))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kbuild-solver")
    parser.add_argument("command")
    parser.add_argument("--prefix")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--override-channels", action="store_true")
    parser.add_argument("--channel", action="append", default=[])
    parser.add_argument("specs", nargs="*")
    return parser


def _failure(exception_name: str, message: str) -> str:
    # The shape of conda's own errors with --json; conda-lock shows ``message``.
    return json.dumps({"success": False, "exception_name": exception_name, "message": f"{exception_name}: {message}"})


def _end(code: int, answer: str) -> NoReturn:
    sys.stdout.write(answer + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    # py-rattler's runtime threads can crash while the interpreter shuts down, so it is not let to.
    os._exit(code)


if __name__ == "__main__":
    _end(*main(sys.argv[1:], os.environ))
