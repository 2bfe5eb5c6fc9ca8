"""What of kbuild travels in models and in images: what runs there, and nothing else.

An edit outside these files changes no digest. What is named here imports only what is named here (import-linter holds
it to that), but for the two functions of ``training/pyfunc.py`` that training calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kbuild
from kbuild.digest import digest_file, digest_json

# What a KedroPipelineModel is made of.
_MODEL = ("__init__.py", "_version.py", "errors.py", "served", "training/__init__.py", "training/pyfunc.py")
# Code, and what the server's pages are made of.
_KINDS = (".py", ".js", ".css")
# What answers requests with it.
_IMAGE = (*_MODEL, "answers.py", "serving")
# What asks it for whole tables, in archives only: an edit there changes no image.
_ARCHIVE = ("scoring",)


def model_files() -> dict[str, Path]:
    """What goes into every model: path below its code folder (``kbuild/errors.py``) -> file here, sorted by path."""
    return _find(_MODEL)


def model_part() -> str:
    """The digest of what goes into every model: two kbuilds of one version may differ in it, where one was edited."""
    return str(digest_json({path: str(digest_file(file)) for path, file in model_files().items()}))


def image_files() -> dict[str, Path]:
    """What goes into every image: in-image path below the runtime's folder -> file here, sorted by path."""
    return _find(_IMAGE)


def archive_files() -> dict[str, Path]:
    """What goes into every archive besides what goes into images: path below the runtime's folder -> file here."""
    return _find(_ARCHIVE)


def _find(parts: Sequence[str]) -> dict[str, Path]:
    root = Path(kbuild.__file__).parent
    files = [file for part in parts for file in ((root / part).rglob("*.*") if "." not in part else [root / part])]
    files = [file for file in files if file.suffix in _KINDS]
    return {f"kbuild/{file.relative_to(root).as_posix()}": file for file in sorted(files)}
