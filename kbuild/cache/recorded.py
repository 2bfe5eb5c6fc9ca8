"""Which models this user recorded on this machine: they ran here already, and nobody else made them.

A note of a model's digest, vouched for by the key of ``notes``, beside that key: no model can bring one of its own.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.files import portable, user_folder

_RECORDED = b"recorded here"


def note_recorded(root: Path) -> None:
    """Note the model of a folder; nothing where this process may not: it is then as any other model."""
    with contextlib.suppress(ImportError, OSError):  # who only trains need not have the extra that knows the folder
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_vouched(folder / _digest_of(root).hex, _RECORDED)


def is_recorded(model: Digest) -> bool:
    """Whether a model of this digest was recorded here."""
    try:
        return read_vouched(_folder() / model.hex) == _RECORDED
    except OSError:
        return False


def _folder() -> Path:
    return user_folder("state") / "recorded"


def _digest_of(root: Path) -> Digest:
    """As ``ModelBundle.digest``, which the floors that training does not know make of what is fetched."""
    names = {portable(path.relative_to(root).as_posix()): path for path in root.rglob("*") if path.is_file()}
    return digest_json([[name, str(digest_file(names[name]))] for name in sorted(names, key=os.fsencode)])
