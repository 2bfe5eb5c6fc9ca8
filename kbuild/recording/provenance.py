"""Which run made each input of a model: told in tags of the run, and found by them again when an input is reused.

Tags of a run: ``kbuild.made.NAME`` is the digest of an inference input that the run made; ``kbuild.reused`` is JSON,
from each input that an earlier run made to that run's id, or null where no run of the experiment says it made it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from kbuild.digest import Digest, digest_chunks, digest_file, digest_json
from kbuild.errors import RecordingError
from kbuild.recording.mlflow_run import patience
from kbuild.served.inputs import to_local_path
from kbuild.tracking.preflight import one_line

_MADE = "kbuild.made."
_REUSED = "kbuild.reused"
# What MLflow allows in a tag's name (mlflow.utils.validation), and how much of it.
_NOT_ALLOWED = re.compile(r"[^\w. /-]")
_MAX_NAME = 200


def note_inputs(run_id: str, artifacts: Mapping[str, str], *, made: Iterable[str], reused: Iterable[str]) -> None:
    """Tag a run with what it made and what it reuses; ``artifacts`` are file uris by input name.

    Raises RecordingError when MLflow's store fails.
    """
    import mlflow
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    reused = sorted(reused)
    tags = {_tag(name): str(digest_path(to_local_path(artifacts[name]))) for name in sorted(made)}
    client = mlflow.MlflowClient()
    try:
        with patience():
            if reused:
                experiment = client.get_run(run_id).info.experiment_id
                makers = {name: _find_maker(client, experiment, run_id, name, artifacts[name]) for name in reused}
                tags[_REUSED] = json.dumps(makers)
            if tags:
                client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    except (MlflowException, OSError) as error:
        raise RecordingError(f"the run cannot be tagged with its inputs: {one_line(error)}") from error


def digest_path(path: Path) -> Digest:
    """The digest of a file, or of a folder: of all names in it with their files' digests."""
    if not path.is_dir():
        return digest_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest_json({file.relative_to(path).as_posix(): str(digest_file(file)) for file in files})


def _find_maker(client: object, experiment: str, run_id: str, name: str, artifact: str) -> str | None:
    digest = digest_path(to_local_path(artifact))
    # The newest first: of two runs that made the same bytes, the later one left the file.
    runs = client.search_runs(  # type: ignore[attr-defined]
        [experiment],
        filter_string=f"tags.`{_tag(name)}` = '{digest}'",
        order_by=["attributes.start_time DESC"],
        max_results=2,
    )
    return next((str(run.info.run_id) for run in runs if run.info.run_id != run_id), None)


def _tag(name: str) -> str:
    plain = _NOT_ALLOWED.sub("_", name)
    if plain == name and len(name) <= _MAX_NAME:
        return _MADE + name
    # Two names must not share a tag.
    return f"{_MADE}{plain[:_MAX_NAME]}-{digest_chunks([name.encode()]).hex[:8]}"
