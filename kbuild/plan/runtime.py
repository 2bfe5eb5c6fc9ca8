"""The part of kbuild that goes into every image: what serves, and what a KedroPipelineModel is made of."""

from __future__ import annotations

from pathlib import Path

import kbuild
from kbuild.digest import Digest, digest_file, digest_json

_PARTS = ("__init__.py", "_version.py", "answers.py", "errors.py", "digest.py", "process.py", "serving", "training")


def runtime_files() -> dict[str, Path]:
    """In-image path below the runtime's folder (``kbuild/errors.py``) -> file here, sorted by path."""
    root = Path(kbuild.__file__).parent
    found: dict[str, Path] = {}
    for part in _PARTS:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else (path,):
            found[f"kbuild/{file.relative_to(root).as_posix()}"] = file
    return found


def runtime_digest() -> Digest:
    """The digest of names and bytes of those files."""
    return digest_json([[name, str(digest_file(path))] for name, path in runtime_files().items()])
