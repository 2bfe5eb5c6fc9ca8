"""What of a lock is digested: the packages of an image, and all that a lock says, so that an edit shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from packaging.utils import canonicalize_name

from kbuild.digest import Digest, digest_json

CONTENT_DIGEST_KEY = "kbuild_content_digest"
"""Where ``metadata.custom_metadata`` records the digest of all the rest, so that a lock edited by hand shows."""


def locked_digest(subdir: str, packages: Iterable[tuple[str, str, str, str]]) -> Digest:
    """What packages a platform's image is made of: manager, name, version and sha256 of each, in any order.

    Not where they came from: the same wheels from a mirror make the same image.
    """
    rows = (
        (manager, canonicalize_name(name) if manager == "pip" else name, *rest) for manager, name, *rest in packages
    )
    return digest_json(["packages", subdir, sorted(map(list, rows))])


def content_digest(metadata: Mapping[str, Any], packages: Sequence[Any]) -> Digest:
    """The digest of ``metadata``, but for this digest itself, and of the ``package`` list as they are parsed from YAML.

    It shows an edit by hand, not a forgery: whoever edits them can take their digest anew. What YAML knows and JSON
    does not (dates) counts by its text.
    """
    custom = metadata.get("custom_metadata")
    if isinstance(custom, Mapping):
        kept = {name: value for name, value in custom.items() if name != CONTENT_DIGEST_KEY}
        metadata = {**metadata, "custom_metadata": kept}
    return _digest_yaml([metadata, packages])


def is_as_written(metadata: Mapping[str, Any], packages: Sequence[Any]) -> bool | None:
    """Whether a lock has what its content digest was taken of; None where it has none."""
    custom = metadata.get("custom_metadata")
    recorded = custom.get(CONTENT_DIGEST_KEY) if isinstance(custom, Mapping) else None
    if recorded is None:
        return None
    # The first locks recorded their packages alone.
    return recorded in (str(content_digest(metadata, packages)), str(_digest_yaml(packages)))


def _digest_yaml(value: Any) -> Digest:
    return digest_json(json.loads(json.dumps(value, default=str)))
