"""What conda's packages brought of an environment: what its own records say.

Format: ``conda-meta/*.json``, one a package, whose ``files`` are relative to the environment (conda's documentation,
"Environment metadata").
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from kbuild.recording.around.folders import find_more
from kbuild.recording.around.installed import add_paths, is_compiled

_RECORDS = "conda-meta"


def is_conda(prefix: Path) -> bool:
    """Whether a folder is an environment of conda's."""
    return (prefix / _RECORDS).is_dir()


def find_conda_names(prefix: Path, owned: Collection[Path]) -> Iterator[tuple[Path, set[str]]]:
    """The environment, and folders of it that hold more than what was installed, with what was; outermost first.

    ``owned`` are folders of packages, and what pip's distributions that an image will have put beside them. A record
    that cannot be read names nothing.
    """
    listed: dict[str, set[str]] = {}
    for record in (prefix / _RECORDS).glob("*.json"):
        try:
            add_paths(listed, json.loads(record.read_bytes())["files"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
    for place in dict.fromkeys((prefix, prefix.resolve())):
        more = {os.path.relpath(each, outer) for each in owned for outer in (prefix, place) if outer in each.parents}
        add_paths(listed, more)
        cut = len(str(place)) + 1

        def is_known(entry: os.DirEntry[str], cut: int = cut) -> bool:
            return entry.name in listed.get(os.path.dirname(entry.path)[cut:], ()) or is_compiled(entry.name)  # noqa: PTH120

        yield from find_more(place, is_known)
