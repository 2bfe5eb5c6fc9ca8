"""Which Python distribution a conda package brings, where the names differ.

``conda_names.json`` is made of conda-forge's own records (their package urls) and of the table that grayskull and
conda-pypi keep (regro's ``grayskull_pypi_mapping``, as conda-pypi 0.13.1 has it), without names that are not certain:
of one conda package that brings several distributions, and of one whose own name is a distribution too. A project adds
to it, or says otherwise, by ``conda-names``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kbuild.errors import ConfigurationError
from kbuild.untrusted import BrokenText, parse_json, parse_yaml, read_text

Names = tuple[tuple[str, str], ...]
"""Of a project: conda's name and the index's, sorted."""


def pip_name(conda_name: str, own: Names = ()) -> str:
    """The distribution that a conda package brings: as ``own`` has it, the table, else one of the same name."""
    return dict(own).get(conda_name) or known_names().get(conda_name, conda_name)


def all_names(own: Names) -> dict[str, str]:
    """conda's name -> the index's, for those that differ or are stated."""
    return {**known_names(), **dict(own)}


@cache
def known_names() -> dict[str, str]:
    """The table."""
    names: dict[str, str] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return names


def read_names(path: Path) -> Names:
    """A table as conda-lock takes it (``--pypi_to_conda_lookup_file``): JSON or YAML, for each name of the index a
    ``conda_name`` and a ``pypi_name``. Raises ConfigurationError.
    """
    try:
        text = read_text(path)
        value = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except (OSError, BrokenText) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"conda-names: {path} cannot be read: {reason}") from error
    entries = value.values() if isinstance(value, Mapping) else [value]
    return tuple(sorted({_pair(entry, path) for entry in entries}))


def _pair(entry: Any, path: Path) -> tuple[str, str]:
    pair = tuple(entry.get(key) for key in ("conda_name", "pypi_name")) if isinstance(entry, Mapping) else ()
    if len(pair) != 2 or not all(isinstance(name, str) and name for name in pair):
        raise ConfigurationError(
            f"conda-names: {path} is not a table of names: {str(entry)[:80]!r} has no conda_name and pypi_name",
            hint="write it as conda-lock's lookup file, or as conda-names: {conda package: distribution}",
        )
    return str(pair[0]), str(pair[1])
