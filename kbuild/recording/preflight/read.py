"""What the nodes that are to run read and none of them makes: whether it is there, before hours have passed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from inspect import getsource, unwrap
from pathlib import Path
from typing import Any

from kbuild.errors import ConfigurationError, KbuildError, RecordingError
from kbuild.recording.preflight.fault import Fault, did_you_mean
from kbuild.recording.preflight.inputs import check_full, exists, is_local, names_of, strip
from kbuild.served.calls import is_parameter
from kbuild.training.described import is_in_memory, is_persisted
from kbuild.training.pipeline_ml import PipelineML

_logger = logging.getLogger(__name__)
# Said of most folders of data, so it says of no node that it writes there.
_ANY_FOLDER = {"", "data", "tmp", "conf", "."}


def check_read(
    planned: PipelineML, datasets: Mapping[str, Any], catalog: Any, *, data: bool = True, stale: bool = False
) -> Iterator[Fault]:
    """``datasets``, ``data`` and ``stale`` are those of ``check_inputs``, which tells of what inference reads too."""
    told = {*planned.inference.inputs(), *planned.input_names}
    if stale:
        told |= {name for name in planned.inputs() if strip(name) in map(strip, planned.binding.training.all_outputs())}
    written = [place for name in planned.all_outputs() if (place := _place_of(datasets.get(name))) is not None]
    for name in sorted(planned.inputs() - told):
        if name not in datasets:
            continue  # its entry cannot be made, which is told already
        try:
            error = _check(name, datasets, planned, catalog, written if data else None)
        except Exception as fault:  # noqa: BLE001  a dataset of the user's may raise anything: who loads it tells
            _logger.info("The data %r cannot be looked at before training: %s", name, type(fault).__name__)
            continue
        if error is not None:
            yield Fault(about="parameters" if is_parameter(name) else "data", error=error)


def _check(
    name: str, datasets: Mapping[str, Any], planned: PipelineML, catalog: Any, written: list[Path] | None
) -> KbuildError | None:
    """``written`` are places that nodes write, None where no file has to be there yet."""
    dataset = datasets[name]
    readers = [node for node in planned.nodes if name in node.inputs]
    read = f"the training node {readers[0].name!r} reads"
    if dataset is None and is_parameter(name):
        add = f"add it to conf/base/parameters.yml: {name.removeprefix('params:')}: VALUE"
        hint = did_you_mean(name, filter(is_parameter, names_of(catalog)), add)
        return ConfigurationError(f"{read} {name!r}, which is in no parameters file", hint=hint)
    if dataset is None:
        known = {*names_of(catalog), *planned.all_outputs()} - {name}
        hint = did_you_mean(name, known, "give it an entry in the catalog, or run the nodes that make it too")
        return RecordingError(f"{read} {name!r}, which no node that runs makes and the catalog has not", hint=hint)
    if is_in_memory(dataset):
        if exists(dataset):
            return None
        hint = f"run the nodes that make it too, or give {name!r} a file in the catalog"
        return RecordingError(
            f"{read} {name!r}, which has no data in memory, and no node that runs makes it", hint=hint
        )
    if written is None or not is_persisted(dataset) or not is_local(dataset):
        return None
    place = Path(str(dataset._filepath))
    if not exists(dataset):
        if any(each == place or each in place.parents for each in written):
            return None
        if _may_be_made(place, readers, planned, datasets):
            return None
        return RecordingError(
            f"{read} {name!r}, which has no file yet ({place.name}), and no node that runs makes it",
            hint="put the file there, or run the nodes that make it; kedro kbuild check --skip data asks for no files",
        )
    return check_full(name, dataset)


def _may_be_made(place: Path, readers: list[Any], planned: PipelineML, datasets: Mapping[str, Any]) -> bool:
    """Whether nodes that run before its readers may write it though they do not say so: their code or their parameters
    name the file or its folder, or the code is not there to be read."""
    folder = place.parent.name
    words = (place.name, place.stem if folder in _ANY_FOLDER else folder)
    before = set(planned.to_nodes(*(node.name for node in readers)).nodes) - set(readers)
    return any(_names_one(node, words, datasets) for node in before)


def _names_one(node: Any, words: tuple[str, str], datasets: Mapping[str, Any]) -> bool:
    try:
        texts = [getsource(sys.modules[unwrap(node.func).__module__])]
    except (OSError, TypeError, KeyError, AttributeError):
        return True
    texts += [str(datasets[name].load()) for name in node.inputs if is_parameter(name) and datasets.get(name)]
    return any(word in text for word in words for text in texts)


def _place_of(dataset: Any) -> Path | None:
    try:
        place = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    except Exception:  # noqa: BLE001  the dataset is the user's code, which may raise anything
        return None
    return None if place is None else Path(str(place))
