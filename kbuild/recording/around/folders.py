"""Folders that hold more than what was put there by those who say what they put."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Of these their own installers say what is in them.
_OF_PACKAGES = frozenset({"site-packages", "dist-packages"})


def find_more(outermost: Path, is_known: Callable[[os.DirEntry[str]], bool]) -> Iterator[tuple[Path, set[str]]]:
    """The outermost folder, and those below it that hold more than what is known, with the known names of each; a
    folder comes before those in it. Folders of packages are known, and not looked into."""
    todo = [str(outermost)]
    while todo:
        folder = todo.pop()
        try:
            found = list(os.scandir(folder))
        except OSError:
            continue  # it cannot be read by the model either
        known = [each for each in found if each.name in _OF_PACKAGES or is_known(each)]
        if len(known) < len(found) or folder == str(outermost):
            yield Path(folder), {each.name for each in known}
        todo += [each.path for each in known if each.name not in _OF_PACKAGES and each.is_dir(follow_symlinks=False)]
