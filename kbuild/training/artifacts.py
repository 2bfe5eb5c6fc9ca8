"""From a Kedro catalog to the files of a model: each inference input described, found, fetched or staged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kbuild.errors import RecordingError
from kbuild.served.calls import is_parameter
from kbuild.served.inputs import InputSource, load_input, load_staged
from kbuild.training.described import (
    LOCAL_PROTOCOLS,
    describe,
    describe_all,
    find_dataset,
    is_in_memory,
    is_partitioned,
    is_persisted,
    load_place,
)
from kbuild.training.entry import EntryValidator
from kbuild.training.staging import make_passing_folder, rename_doubles, stage_parts, stage_value
from kbuild.training.value_digest import find_digest

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """The inputs of a model: how each is read, its ``file:`` uri, and what the model will load from it.

    ``as_values`` says of datasets whose file cannot travel as it is why their value does; ``uncompared`` names inputs
    whose value does not say what it holds, so that the type alone is known to be what the catalog loads.
    """

    sources: dict[str, InputSource]
    artifacts: dict[str, str]
    values: dict[str, Any]
    as_values: dict[str, str]
    uncompared: tuple[str, ...] = ()


def describe_inputs(names: Iterable[str], catalog: CatalogProtocol) -> dict[str, InputSource]:
    """How each inference input is stored and read, by name, in sorted order, as far as its catalog entry says it."""
    return {name: describe(name, find_dataset(name, catalog)) for name in sorted(names)}


def extract_artifacts(
    sources: Mapping[str, InputSource],
    catalog: CatalogProtocol,
    folder: str | Path | None = None,
    captured: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The files of ``settle_inputs`` alone, as ``{name: file uri}``."""
    return settle_inputs(sources, catalog, folder, captured).artifacts


def settle_inputs(
    names: Iterable[str],
    catalog: CatalogProtocol,
    folder: str | Path | None = None,
    captured: Mapping[str, Any] | None = None,
    use: Callable[[Mapping[str, Any]], None] | None = None,
) -> Settled:
    """A file for every input from which the model loads what the catalog loads; compared by value.

    That is the dataset's own file, read by its class or the nearest base that gives the same value; else the value that
    the catalog loads, staged. What is staged or fetched goes into ``folder``; without one that is a temporary folder,
    which is there as long as this process. ``captured`` holds values of in-memory datasets that the runner has released
    since: of any other dataset, what a node returned need not be what is loaded.
    ``use`` is called once with what the catalog loaded, by name, and may change these values: they are let go of before
    the files are read, so that no large one is held twice.
    Raises RecordingError naming every input without data.
    """
    target = make_passing_folder() if folder is None else Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    captured = captured or {}
    seen: list[_Seen] = []
    loaded: dict[str, Any] = {}
    missing: list[str] = []
    unreadable = True
    for number, name in enumerate(names):
        # A folder for each: two names may become one file name.
        try:
            dataset = find_dataset(name, catalog)  # of a pattern the catalog makes the entry's validator only then
            entry, place = EntryValidator(name, catalog), target / str(number)
            found, loaded[name] = _look(entry, dataset, captured, place)
            seen.append(found)
        except _NoData as error:
            missing.append(str(error))
            unreadable = unreadable and isinstance(error, _Unreadable)
    if missing:
        raise RecordingError(
            "the inference pipeline's inputs are not all there: " + "; ".join(missing),
            hint="see that load_args and save_args of its entry in the catalog fit each other: catalog.load(NAME) in "
            "kedro ipython says more"
            if unreadable
            else "run the nodes that make them, or give these datasets a file in the catalog",
        )
    if use is not None:
        use(dict(loaded))
    loaded.clear()
    settled = {each.name: _read_back(each) for each in seen}
    paths = rename_doubles({name: each.path for name, each in settled.items()}, target)
    return Settled(
        sources={name: each.source for name, each in settled.items()},
        artifacts={name: path.as_uri() for name, path in paths.items()},
        values={name: each.value for name, each in settled.items()},
        as_values={name: each.reason for name, each in settled.items() if each.reason is not None},
        uncompared=tuple(each.name for each in seen if each.digest is None and not each.parts),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    source: InputSource
    path: Path
    value: Any
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What is known of a value that was loaded: its digest and type; ``staged`` where that has been written already."""

    entry: EntryValidator
    dataset: Any
    target: Path
    kind: type
    digest: bytes | None
    staged: Path | None = None
    parts: bool = False

    @property
    def name(self) -> str:
        """The input's."""
        return self.entry.name


def _look(entry: EntryValidator, dataset: Any, captured: Mapping[str, Any], target: Path) -> tuple[_Seen, Any]:
    """The input as the catalog loads it, and what is to be known of it when it is gone."""
    name = entry.name
    if dataset is None and name not in captured:
        raise _NoData(f"{name!r} is in no catalog")
    in_memory = dataset is None or is_in_memory(dataset)
    value = entry.give(entry.take(captured[name])) if in_memory and name in captured else _load(entry, dataset)
    if not in_memory:
        _check_lasting(name, value)
    parts = not in_memory and is_partitioned(value)
    digest = None if parts else find_digest(value)
    staged = None
    if parts:
        staged = stage_parts(name, value, target)
    elif in_memory or not is_persisted(dataset):
        staged = stage_value(name, value, target)
    kept = dataset if not in_memory else None
    return _Seen(
        entry=entry, dataset=kept, target=target, kind=type(value), digest=digest, staged=staged, parts=parts
    ), value


def _check_lasting(name: str, value: Any) -> None:
    if isinstance(value, Iterator):
        getattr(value, "close", lambda: None)()
        raise RecordingError(
            f"input {name!r} is a {type(value).__name__}, which gives what it holds once: the second request "
            "would find it empty",
            hint="let the catalog load the whole of it (without chunksize or iterator in load_args)",
        )


def _read_back(seen: _Seen) -> _Found:
    """What the model will load, from the dataset's own file where that gives what the catalog gave."""
    source = InputSource(kind="parameter" if seen.dataset is None and is_parameter(seen.name) else "object")
    if seen.parts and seen.staged is not None:
        return _Found(source=source, path=seen.staged, value=load_staged(seen.staged))
    staged, reason = seen.staged, None
    if seen.dataset is not None:
        reason = f"{type(seen.dataset).__name__} keeps no file that a model could carry"
    if staged is None:
        found, reason = _find_readable(seen.name, seen.dataset, seen.digest, seen.kind, seen.target)
        if found is not None:
            return found
        staged = stage_value(seen.name, _load(seen.entry, seen.dataset), seen.target)
    loaded = load_staged(staged)
    after = find_digest(loaded)
    if seen.digest != after and after == find_digest(loaded):
        _logger.warning(
            "The input %r holds something else after it was pickled and read again (%s): see that this makes no "
            "difference, or give it a file in the catalog, with a dataset type that can save it.",
            seen.name, seen.kind.__qualname__,
        )  # fmt: skip
    return _Found(source=source, path=staged, value=loaded, reason=reason)


def _find_readable(
    name: str, dataset: Any, wanted: bytes | None, kind: type, target: Path
) -> tuple[_Found | None, str]:
    """The dataset's file, if one of its classes reads it as the catalog does; else why none is."""
    described = list(describe_all(dataset))
    if not described:
        return None, "how its file is read cannot be told in plain values, or its class not be imported"
    path = _fetch(name, dataset, target)
    if path is None:
        return None, f"{type(dataset).__name__} loads it from elsewhere than {Path(str(dataset._filepath)).name!r}"
    reason = ""
    for number, source in enumerate(described):
        try:
            if _has_companions(source, path):
                _try_alone(name, source, path, target / f"alone-{number}")
            value = load_input(name, source, str(path))
        except Exception as error:  # noqa: BLE001  the class is anybody's; what it raises is the reason that is told
            reason = reason or f"{source.type} alone cannot read its file ({type(error).__name__}: {error})"
            continue
        # What cannot be compared is told of by the answers, which are compared in any case.
        if (wanted is None and type(value) is kind) or (wanted is not None and find_digest(value) == wanted):
            return _Found(source=source, path=path, value=value), ""
        reason = reason or f"{source.type} alone reads another value from its file than the catalog loads"
    return None, " ".join(reason.split())


def _has_companions(source: InputSource, path: Path) -> bool:
    """Whether a class that is not of kedro-datasets, which are known to read one file, may read others beside it."""
    own = not str(source.type).startswith("kedro_datasets.")
    return own and any(each != path and each.name.startswith(path.stem) for each in path.parent.iterdir())


def _try_alone(name: str, source: InputSource, path: Path, folder: Path) -> None:
    """Read the file under its name in a folder that has no other, as the model will; raises what its class does."""
    folder.mkdir(parents=True)
    alone = folder / path.name
    alone.symlink_to(path)  # it may be large
    load_input(name, source, str(alone))


class _NoData(Exception):
    pass


class _Unreadable(_NoData):
    pass


def _fetch(name: str, dataset: Any, target: Path) -> Path | None:
    """The dataset's file or folder on this machine, None where there is none; remote ones go into ``target``."""
    from kedro.io import DatasetError
    from kedro.io.core import get_filepath_str

    try:
        place = load_place(dataset)
    except DatasetError as error:
        raise _NoData(f"{name!r} cannot be looked for: {error}") from error
    protocol = getattr(dataset, "_protocol", "file")
    path = get_filepath_str(PurePosixPath(place), protocol)  # as Kedro's own datasets: https wants its protocol back
    if protocol in LOCAL_PROTOCOLS:
        local = Path(path).resolve()
        return local if local.exists() else None
    fetched = target / Path(path).name
    fetched.parent.mkdir(parents=True, exist_ok=True)
    try:
        dataset._fs.get(path, str(fetched), recursive=bool(dataset._fs.isdir(path)))
    except Exception as error:  # each store's client raises errors of its own
        text = " ".join(str(error).split())
        raise RecordingError(
            f"input {name!r} cannot be fetched from {protocol}: {type(error).__name__}: {text}",
            hint="see that the place answers, or keep a copy of it in the project",
        ) from error
    return fetched


def _load(entry: EntryValidator, dataset: Any) -> Any:
    """What the catalog loads. Whether it is there is not asked: ``exists()`` is False where nobody wrote one."""
    from kedro.io import DatasetError

    name = entry.name
    try:
        return entry.give(dataset.load())
    except DatasetError as error:
        if is_persisted(dataset):
            if not _exists(dataset):
                raise _NoData(f"{name!r} has no file yet ({dataset._filepath})") from error
            raise _Unreadable(f"{name!r} does not load: {' '.join(str(error).split())}") from error
        raise _NoData(f"{name!r} has no data: {' '.join(str(error).split())}") from error


def _exists(dataset: Any) -> bool:
    from kedro.io import DatasetError

    try:
        return bool(dataset.exists())
    except DatasetError:
        return True  # then what was raised while it was loaded says more
