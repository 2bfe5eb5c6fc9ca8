"""Where the files that come with kbuild lie: templates, pins and the demo project."""

from __future__ import annotations

from pathlib import Path

from kbuild.errors import ConfigurationError

_PACKAGE = Path(__file__).parent
# Name in the wheel (below kbuild/_data/, see pyproject.toml) and place in a checkout.
_PLACES = {"dockerfiles": "dockerfiles", "demo": "integration/projects/diabetes"}


def data_path(name: str) -> Path:
    """The directory of the shipped data ``name``: ``dockerfiles`` or ``demo``.

    Raises ConfigurationError when this installation of kbuild lacks it.
    """
    for path in (_PACKAGE / "_data" / name, _PACKAGE.parent / _PLACES[name]):
        if path.is_dir():
            return path
    raise ConfigurationError(f"this installation of kbuild has no {name}", hint="install kbuild again from its wheel")
