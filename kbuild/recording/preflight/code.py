"""The code that is served and the packages that it needs: whether both can come into an image."""

from __future__ import annotations

import platform
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from kbuild.errors import KbuildError, RecordingError
from kbuild.recording.preflight.copied import check_copies
from kbuild.recording.preflight.fault import Fault
from kbuild.recording.shipment.given import ENVIRONMENT_KWARGS, name_of, read_conda_env, version_of
from kbuild.recording.shipment.pinning import PinnedEnvironment, find_absent, find_given, find_others, make_environment
from kbuild.recording.shipment.shipping import Shipment, Sorter, brings_kedro, find_distributions_of, plan_shipment
from kbuild.recording.shipment.tracing import (
    find_pickled_modules,
    find_source,
    follow_imports,
    imports_of,
    keep_imports,
    package_of,
    read_tree,
)
from kbuild.training.pipeline_ml import PipelineML


def check_code(planned: PipelineML, package_name: str | None) -> Iterator[Fault]:
    """What nodes import, and what the user says that they need; objects of training are not there yet."""
    kwargs = planned.log_model_kwargs
    shipment, modules = Shipment(code={}, requirements=[]), set[str]()
    try:
        modules = find_pickled_modules([node.func for node in planned.inference.nodes])
        shipment = plan_shipment(modules, package_name, lean=planned.kpm_kwargs.get("runner") is None)
    except RecordingError as error:
        yield Fault(about="code", error=error)
    for wrong in check_copies(kwargs.get("code_paths"), shipment.code):
        yield Fault(about="log_model_kwargs", error=wrong)
    asked = [kwargs]
    try:
        find_given(kwargs)
    except RecordingError as error:
        yield Fault(about="log_model_kwargs", error=error)
        others = {name: value for name, value in kwargs.items() if name not in ENVIRONMENT_KWARGS}
        asked = [{**others, name: kwargs[name]} for name in ENVIRONMENT_KWARGS if kwargs.get(name)]
    tops = [*shipment.code, *(Path(path).stem for path in _paths_of(kwargs))]
    travelling = find_distributions_of(tops, package_name)
    puts_off = planned.kpm_kwargs.get("runner") is None and shipment.kedro_for is None
    for each in asked:
        try:
            with tempfile.TemporaryDirectory(prefix="kbuild-preflight-") as folder:
                made = make_environment(shipment.requirements, each, Path(folder), travelling=travelling)
        except RecordingError as error:
            yield Fault(about="environment", error=error)
            continue
        for fault in (*_find_other_python(each), *_find_lacking(made, modules, package_name, tops, puts_off)):
            yield Fault(about="environment", error=fault)


def find_other_versions(planned: PipelineML, package_name: str | None) -> Iterator[str]:
    """A note for each version that the user asks for and that is not the one that trains, or is none here; it is their
    word."""
    tops = [
        *([package_name] if package_name else []),
        *(Path(path).stem for path in _paths_of(planned.log_model_kwargs)),
    ]
    try:
        # A line that names the project stands for the code that travels.
        travelling = find_distributions_of(tops, package_name)
        found = find_others(planned.log_model_kwargs, travelling=travelling)
        absent = find_absent(planned.log_model_kwargs, travelling=travelling)
    except RecordingError:
        return  # a finding says so
    for each in found:
        yield f"{each}: an image gets what is asked for, and kbuild image is the first to see what it answers with that"
    yield from absent


def _paths_of(kwargs: Mapping[str, Any]) -> list[str]:
    paths = kwargs.get("code_paths") or []
    return [] if isinstance(paths, str | Path) else list(map(str, paths))


def _find_other_python(kwargs: Mapping[str, Any]) -> Iterator[KbuildError]:
    """A release that is not the one that trains is the user's word; one that excludes it and names none is no word."""
    if not kwargs.get("conda_env"):
        return
    here = platform.python_version()
    for each in read_conda_env(kwargs["conda_env"]).conda:
        wanted = version_of(each) if name_of(each) == "python" else None
        exact = re.fullmatch(r"==\d+\.\d+\.\d+\w*", str(wanted))
        # 3.11.x is what people write, and no version to conda.
        no_version = name_of(each) == "python" and re.search(r"\d\.x\b", each)
        if no_version or not (wanted is None or exact or wanted.contains(Version(here), prereleases=True)):
            yield RecordingError(
                f"conda_env asks for {each!r}, and the model will be trained with Python {here}",
                hint=f"train with that Python, or write python={here}",
            )


def _find_lacking(
    environment: PinnedEnvironment, modules: set[str], package_name: str | None, shipped: list[str], puts_off: bool
) -> Iterator[KbuildError]:
    """Packages that files of the project import when they are imported, and that the user's own list does not bring.

    ``puts_off``: not Kedro, since nothing that is served needs it.
    """
    if not environment.fixed:
        return
    sorter = Sorter(package_name)
    told: set[str] = set()
    for module in sorted(follow_imports(modules, sorter.is_own, at_once=True).own):
        source = find_source(module)
        if source is None or source.suffix != ".py":
            continue
        for name, line in imports_of(keep_imports(read_tree(module, source)), package_of(module, source)):
            top = name.partition(".")[0]
            owners = [] if sorter.is_own(top) or top in (*shipped, "kbuild") else sorter.find_distributions(name)
            if not owners or told & set(owners) or set(owners) & set(environment.closure.versions):
                continue
            if puts_off and any(map(brings_kedro, owners)):
                continue  # in the copy that is served
            told |= set(owners)
            yield RecordingError(
                f"the environment in log_model_kwargs lacks {owners[0]}, which {source.name}, line {line}, imports",
                hint=f"add {owners[0]!r} to it, or use extra_pip_requirements, which only adds",
            )
