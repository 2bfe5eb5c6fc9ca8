"""Whether the packages of one of kbuild's extras are installed, and the line that installs them as kbuild was."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from kbuild.errors import ExtraNotInstalled
from kbuild.init.installed import find_install_source, read_direct_url
from kbuild.process import Runner


def check_extra(extra: str, *, run: Runner) -> None:
    """Raises ExtraNotInstalled naming each package of the extra that is not here, or is too old."""
    try:
        distribution = Distribution.from_name("kbuild")
    except PackageNotFoundError:
        return  # run from its sources: nothing says what the extra asks for
    needs = [Requirement(text) for text in distribution.requires or []]
    lacking = [f"{need.name}{need.specifier}" for need in needs if _is_of(need, extra) and not _is_installed(need)]
    if lacking:
        installer = (distribution.read_text("INSTALLER") or "").strip()
        raise ExtraNotInstalled(
            f"the {extra} needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed",
            hint=make_install_line(extra, run=run, direct_url=read_direct_url(), installer=installer),
        )


def make_install_line(extra: str, *, run: Runner, direct_url: Mapping[str, Any] | None, installer: str) -> str:
    """What to type to have the extra beside this kbuild, from where kbuild came and by what installed it."""
    source = find_install_source(Path.cwd(), run=run, direct_url=direct_url)
    requirement = source.requirement.replace("[build]", f"[build,{extra}]", 1)
    editable = isinstance(direct_url, Mapping) and bool((direct_url.get("dir_info") or {}).get("editable"))
    if editable and source.local is not None:
        requirement = f"{source.local}[build,{extra}]"
    option = ["-e"] if editable else []
    python = sys.executable
    with_uv = installer == "uv" or find_spec("pip") is None
    program = ["uv", "pip", "install", "--python", python] if with_uv else [python, "-m", "pip", "install"]
    return shlex.join([*program, *option, requirement])


def _is_of(need: Requirement, extra: str) -> bool:
    marker = need.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _is_installed(need: Requirement) -> bool:
    try:
        return need.specifier.contains(version(need.name), prereleases=True)
    except PackageNotFoundError:
        return False
