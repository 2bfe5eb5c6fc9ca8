"""The part of kbuild that goes into every image, by its digest."""

from __future__ import annotations

from kbuild.digest import Digest, digest_file, digest_json
from kbuild.shipped import image_files


def runtime_digest() -> Digest:
    """The digest of names and bytes of the files that ``image_files`` names."""
    return digest_json([[name, str(digest_file(path))] for name, path in image_files().items()])
