"""The whole preflight of a training run: what ``kedro run`` asks before the first node, and ``kedro kbuild check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.cache.notes import check_stated_key
from kbuild.errors import KbuildError
from kbuild.project.config import ProjectConfig
from kbuild.recording.preflight.arguments import check_arguments, check_flavors
from kbuild.recording.preflight.code import check_code, find_other_versions
from kbuild.recording.preflight.copied import check_places
from kbuild.recording.preflight.fault import Fault
from kbuild.recording.preflight.inputs import check_inputs, find_datasets, find_values
from kbuild.recording.preflight.read import check_read
from kbuild.recording.preflight.stores import check_artifacts, check_prompts, check_room, check_tracking
from kbuild.recording.run.facts import PICTURE_FILE, PIPELINE_FILE
from kbuild.recording.shipment.extra import check_extra
from kbuild.training.described import uncached
from kbuild.training.pipeline_ml import PipelineML
from kbuild.training.staleness import check_fresh, check_versions


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What was found, and ``notes`` that stop nothing."""

    findings: tuple[Fault, ...]
    notes: tuple[str, ...]


def examine(
    planned: PipelineML,
    catalog: Any,
    config: ProjectConfig,
    *,
    project_path: Path,
    package_name: str | None,
    data: bool = True,
    stores: bool = True,
) -> Looked:
    """Look at everything that recording will need once ``planned``, the nodes that are to run, have run.

    ``data``: files that no node makes have to be there; ``stores``: servers and disks are asked. Raises what has
    nothing to do with the model.
    """
    planned = planned.by_default(signature=config.training.signature)
    findings: list[Fault] = []
    try:
        check_fresh(planned.binding, planned.nodes)
    except KbuildError as error:
        findings.append(Fault(about="run", error=error))
    stale = bool(findings)
    findings += check_arguments(planned.binding)
    datasets, broken = find_datasets(planned, catalog)
    findings += broken
    try:
        check_versions(planned.binding, planned.nodes, datasets.get)
    except KbuildError as error:
        findings.append(Fault(about="run", error=error))
    findings += check_flavors(datasets)
    findings += check_inputs(planned, datasets, catalog, data=data, stale=stale)
    findings += check_read(planned, datasets, catalog, data=data, stale=stale)
    findings += check_code(planned, package_name)
    findings += check_extra(config.training.ship, package_name)
    drawn = (PIPELINE_FILE, PICTURE_FILE) if config.tracking.log_pipeline else ()
    # As the catalog has them: what is kept among the artifacts is what was wrapped for that.
    kept = {name: uncached(catalog.get(name)) for name in planned.all_outputs() & datasets.keys()}
    findings += check_places(kept, drawn)
    try:
        check_stated_key()  # a model that is recorded here is noted under it
    except KbuildError as error:
        findings.append(Fault(about="configuration", error=error))
    if stores:
        location, wrong = check_tracking(project_path, package_name or project_path.name, config.tracking)
        findings += wrong
        if location is not None:
            findings += check_artifacts(location)
        if not wrong:
            findings += check_prompts(project_path, planned.log_model_kwargs.get("prompts"))
        inputs = frozenset(planned.inference.inputs() - {planned.input_name})
        findings += check_room(datasets, inputs, location)
    return Looked(
        findings=tuple(findings), notes=(*find_values(planned, datasets), *find_other_versions(planned, package_name))
    )
