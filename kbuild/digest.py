"""Digests: the typed sha256 of bytes, files and values.

Written as in the OCI image-spec, descriptor.md "Digests": ``algorithm:encoded``; only sha256 is used here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PATTERN = re.compile(r"sha256:([0-9a-f]{64})")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A sha256, 64 lower-case hexadecimal characters; ``str()`` gives ``sha256:…``."""

    hex: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.hex):
            raise ValueError(f"not a sha256 in hexadecimal: {self.hex!r}")

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<64 hex>``; raises ValueError for anything else."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"not a digest of the form sha256:<64 hex characters>: {text!r}")
        return cls(match[1])


def digest_bytes(data: bytes) -> Digest:
    """The digest of a byte string."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_chunks(chunks: Iterable[bytes]) -> Digest:
    """The digest of a stream, held one chunk at a time."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return Digest(state.hexdigest())


def digest_file(path: Path | str) -> Digest:
    """The digest of a file's content, read in 1 MiB pieces."""
    with open(path, "rb") as file:  # noqa: PTH123  a path as text costs less, over tens of thousands of files
        return digest_chunks(iter(lambda: file.read(_CHUNK), b""))


def canonical_json(value: Any) -> bytes:
    """One JSON text for one value: sorted keys, no spaces, UTF-8, no NaN.

    Raises TypeError or ValueError for what JSON cannot carry.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_json(value: Any) -> Digest:
    """The digest of a value's canonical JSON."""
    return digest_bytes(canonical_json(value))
