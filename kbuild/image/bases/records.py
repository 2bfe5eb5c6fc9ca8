"""Base records: which exact base a model was first built on, so that every later build is the same."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import KbuildError
from kbuild.image.bases.debs import base_record, parse_base_record
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import ModelStore
from kbuild.plan.base import ResolvedBase
from kbuild.platform import Platform
from kbuild.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRecords:
    """Records in the run's artifacts (``kbuild/base-linux-64.json``) and, for models without a run, in ``cache``."""

    store: ModelStore
    cache: Path
    folder: str = "kbuild"

    def read(self, bundle: ModelBundle, platform: Platform, progress: Progress) -> ResolvedBase | None:
        """The base of an earlier build; a record that cannot be read is told in a note and counts as none."""
        here = self._here(bundle, platform)
        run_id = bundle.facts.run_id
        scratch = here.with_suffix(".download")
        try:
            if not here.is_file() and run_id is not None:
                found = self.store.download(run_id, f"{self.folder}/{_name(platform)}", scratch)
                if found is not None:
                    self._keep(here, found.read_bytes())
            return parse_base_record(json.loads(here.read_bytes())) if here.is_file() else None
        except (KbuildError, ValueError) as error:
            progress.note(f"no record of an earlier base: {' '.join(str(error).split())}")
            return None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def write(self, bundle: ModelBundle, platform: Platform, base: ResolvedBase, progress: Progress) -> None:
        """Keep ``base`` for later builds of this model, unless that very record is kept already."""
        content = (json.dumps(base_record(base), indent=2, sort_keys=True) + "\n").encode()
        here = self._here(bundle, platform)
        if here.is_file() and here.read_bytes() == content:
            return
        self._keep(here, content)
        run_id = bundle.facts.run_id
        if run_id is None:
            return
        upload = here.parent / here.stem / _name(platform)
        self._keep(upload, content)
        try:
            self.store.upload(run_id, [upload], self.folder)
        except KbuildError as error:
            progress.note(f"the base could not be recorded with the run: {error.message}")
        finally:
            shutil.rmtree(upload.parent, ignore_errors=True)

    def _here(self, bundle: ModelBundle, platform: Platform) -> Path:
        return self.cache / f"{bundle.digest.hex}-{platform.conda_subdir}.json"

    def _keep(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)


def _name(platform: Platform) -> str:
    return f"base-{platform.conda_subdir}.json"
