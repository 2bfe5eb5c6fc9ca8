"""Base records: which exact base a model was first built on, so that every later build is the same."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.cache.notes import read_vouched, write_if_allowed, write_vouched
from kbuild.environment.lockfile import RUN_FOLDER
from kbuild.errors import BaseImageError, KbuildError
from kbuild.files import mark_used
from kbuild.image.base.debian.debs import base_record, parse_base_record
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import ModelStore
from kbuild.plan.base import ResolvedBase
from kbuild.platform import Platform
from kbuild.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """The bases a model was built on, by what ``--base`` said; ``first`` is the one used when nobody says."""

    first: str | None = None
    bases: Mapping[str, ResolvedBase] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRecords:
    """Records in the run's artifacts (``kbuild/bases-linux-64.json``) and, for models without a run, in ``cache``."""

    store: ModelStore
    cache: Path

    def read(self, bundle: ModelBundle, platform: Platform, progress: Progress) -> Recorded:
        """What earlier builds used; a record that cannot be read is told in a note and counts as none."""
        here = self._here(bundle, platform)
        run_id = bundle.facts.run_id
        try:
            known = _known(here)
            if known is None and run_id is not None:
                with tempfile.TemporaryDirectory(prefix="kbuild-base-") as scratch:
                    path = f"{RUN_FOLDER}/{_name(platform)}"
                    found = self.store.download(run_id, path, Path(scratch) / "record")
                    if found is not None:
                        write_if_allowed(here, found.read_bytes())
                        return _parse(json.loads(found.read_bytes()))
            if known is None:
                return Recorded()
            mark_used(here)
            return _parse(json.loads(known))
        except (KbuildError, ValueError, RecursionError) as error:
            progress.tell(f"no record of an earlier base: {' '.join(str(error).split())}")
            return Recorded()

    def write(
        self, bundle: ModelBundle, platform: Platform, earlier: Recorded, base: ResolvedBase, progress: Progress
    ) -> None:
        """Add ``base`` to what earlier builds used, unless that very record is kept already."""
        bases = {**earlier.bases, base.name: base}
        record = {
            "first": earlier.first or base.name,
            "bases": {name: base_record(each) for name, each in bases.items()},
        }
        content = (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()
        here = self._here(bundle, platform)
        if _known(here) == content:
            return
        write_vouched(here, content)
        run_id = bundle.facts.run_id
        if run_id is None:
            return
        try:
            with tempfile.TemporaryDirectory(prefix="kbuild-base-") as scratch:
                file = Path(scratch) / _name(platform)
                file.write_bytes(content)
                self.store.upload(run_id, [file], RUN_FOLDER)
        except KbuildError as error:
            progress.tell(f"the base could not be recorded with the run: {error.message}")

    def _here(self, bundle: ModelBundle, platform: Platform) -> Path:
        return self.cache / f"{bundle.digest.hex}-{platform.conda_subdir}.json"


def _known(here: Path) -> bytes | None:
    try:
        return read_vouched(here)
    except FileNotFoundError:
        return None


def _parse(value: object) -> Recorded:
    record = value if isinstance(value, dict) else {}
    first, bases = record.get("first"), record.get("bases")
    if not isinstance(first, str) or not isinstance(bases, dict):
        raise BaseImageError("bases: not a record of bases")
    return Recorded(first=first, bases={str(name): parse_base_record(each) for name, each in bases.items()})


def _name(platform: Platform) -> str:
    return f"bases-{platform.conda_subdir}.json"
