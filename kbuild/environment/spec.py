"""EnvironmentSpec: what a model asks for, before anything is resolved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from kbuild.digest import Digest, digest_json
from kbuild.platform import Platform

Interpreter = Literal["conda", "captured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentSpec:
    """Unresolved constraints of one model.

    ``conda`` holds conda MatchSpecs without python and pip, ``pip`` PEP 508 requirements, ``constraints`` the
    ``name==version`` pins of the training environment's whole dependency closure; they bind versions but ask for
    nothing. ``channels`` are in order of priority. ``indexes`` are simple-API urls with credentials replaced by
    environment variable references. ``python`` is the exact interpreter version, ``3.11.7``.
    """

    python: str
    conda: tuple[str, ...]
    pip: tuple[str, ...]
    constraints: tuple[str, ...]
    channels: tuple[str, ...]
    indexes: tuple[str, ...]
    platforms: tuple[Platform, ...]
    interpreter: Interpreter

    @property
    def digest(self) -> Digest:
        """Depends on every field and on nothing else."""
        return digest_json(asdict(self))
