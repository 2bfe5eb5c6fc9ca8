"""What verifying said of the images of this machine, by digest: one small file each."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import Digest
from kbuild.untrusted import parse_json


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Of the images below ``root``, the folder of a ``LocalImages``."""

    root: Path

    def write(self, digest: Digest, verdict: str) -> None:
        """Remember a verdict: ``passed``, ``answered`` (there was nothing to compare with), ``failed`` and others."""
        with contextlib.suppress(OSError):  # of a cache that may only be read: the next command verifies again
            write_vouched(self._file(digest), json.dumps({"digest": str(digest), "verdict": verdict}).encode())

    def read(self, digest: Digest) -> str | None:
        """The last verdict of this very image; None where it was not verified here, or nobody can tell."""
        try:
            value = parse_json(read_vouched(self._file(digest)))
            return str(value["verdict"]) if value["digest"] == str(digest) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # then it is verified again

    def _file(self, digest: Digest) -> Path:
        return self.root / "verdicts" / digest.hex
