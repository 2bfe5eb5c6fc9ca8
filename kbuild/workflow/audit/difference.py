"""The difference between two models as they are kept by the tracking server."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kbuild.audit.lockview import LockView, view_lock
from kbuild.audit.report.compare import ModelDiff, Side, compare
from kbuild.cache.scratch import work_folder
from kbuild.environment.lockfile import RUN_FOLDER, lock_bytes
from kbuild.environment.locking.kept import LOCKFILE_NAME
from kbuild.errors import ModelNotFound
from kbuild.model.bundle import ModelBundle
from kbuild.model.model_reference import ModelReference
from kbuild.progress import Progress
from kbuild.untrusted import BrokenText, parse_json
from kbuild.workflow import Tools

_PARAMETER = re.compile(r"artifacts/params_(?P<name>[^/]+)\.json")
_MAX_PARAMETER = 1 << 16


def compare_models(before: ModelReference, after: ModelReference, tools: Tools) -> ModelDiff:
    """What differs between two models and their runs. Raises what fetching them does."""
    with (
        work_folder(tools.cache, "diff-") as folder,
        tools.phases("fetch") as progress,
    ):
        one = _side(before, folder / "before", tools, progress)
        other = _side(after, folder / "after", tools, progress)
        return compare(one, other)


def _side(reference: ModelReference, workdir: Path, tools: Tools, progress: Progress) -> Side:
    progress.note(f"fetching {reference}")
    bundle = tools.store.fetch(reference, workdir / "model")
    run_id = bundle.facts.run_id
    lock: LockView | None = None
    parameters, metrics = _model_parameters(bundle), dict[str, float]()
    if run_id is not None:
        try:
            facts = tools.store.read_run(run_id)
            # Those that the run holds too are told by their names there.
            run_names = facts.parameters.keys()
            parameters = {name: v for name, v in parameters.items() if name.removeprefix("params:") not in run_names}
            parameters |= facts.parameters
            metrics |= facts.metrics
            path = tools.store.download(run_id, f"{RUN_FOLDER}/{LOCKFILE_NAME}", workdir / "lock")
            source = f"the lock of run {run_id}"
            lock = None if path is None else view_lock(lock_bytes(path, source=source), source=source)
        except ModelNotFound:
            progress.tell(f"run {run_id} is not on this tracking server: its parameters and lock are not compared")
    return Side(reference=str(reference), bundle=bundle, lock=lock, parameters=parameters, metrics=metrics)


def _model_parameters(bundle: ModelBundle) -> dict[str, str]:
    """The parameters of the inference pipeline, which travel with the model as small JSON files."""
    named = ((_PARAMETER.fullmatch(file.path), file) for file in bundle.files if file.size <= _MAX_PARAMETER)
    found: dict[str, str] = {}
    for match, file in named:
        if match is not None:
            text = (bundle.root / file.path).read_text(encoding="utf-8")
            found |= _flat(f"params:{match['name']}", text)
    return found


def _flat(name: str, text: str) -> dict[str, str]:
    """A mapping by the names that runs have for what is in it (``m.k``): what differs is not told with the rest."""
    try:
        value = parse_json(text)
    except BrokenText:
        value = None
    if not isinstance(value, dict) or not value:
        return {name: value if isinstance(value, str) else " ".join(text.split())}
    flat: dict[str, str] = {}
    for key, part in value.items():
        flat |= _flat(f"{name}.{key}", json.dumps(part))
    return flat
