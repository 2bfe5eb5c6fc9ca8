"""The lock that is stored with a model's run, and the packages that only this machine's channel has."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kbuild.cache.room import room_for
from kbuild.digest import digest_file
from kbuild.environment.lockfile import (
    CHANNEL_VARIABLE,
    PACKAGES,
    RUN_FOLDER,
    LockedPackage,
    Lockfile,
    lock_bytes,
    parse_lockfile,
)
from kbuild.environment.locking.kept import LOCKFILE_NAME, write_lockfile
from kbuild.environment.locking.offered import channel_folders
from kbuild.errors import HashMismatch, InterpreterCaptureFailed, KbuildError, ProgramNotFound
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import ModelStore
from kbuild.platform import host_platform
from kbuild.process import Runner
from kbuild.progress import Progress


class CapturedOtherwise(HashMismatch):
    """The captured interpreter that a lock names is gone, and capturing it again gives another package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockPlace:
    """Where a lock and its packages come from and go to: the model, its store, and this machine's local ``channel``.

    ``environ`` is what programs are started with; it holds credentials.
    """

    bundle: ModelBundle
    store: ModelStore
    channel: Path
    run: Runner
    environ: Mapping[str, str] = field(repr=False)
    progress: Progress


def stored_lock(place: LockPlace) -> Lockfile | None:
    """The one of the model's run; why there is none is told in a note."""
    run_id = place.bundle.facts.run_id
    if run_id is None:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="kbuild-lock-") as scratch:
            path = place.store.download(run_id, f"{RUN_FOLDER}/{LOCKFILE_NAME}", Path(scratch) / "lock")
            source = f"the lock of run {run_id}"
            return None if path is None else parse_lockfile(lock_bytes(path, source=source), source=source)
    except KbuildError as error:
        # A model fetched from a folder may name a run of a server that is not this one.
        place.progress.tell(f"no lock from run {run_id}: {error.message}")
        return None


def write_back(lockfile: Lockfile, side: Path, place: LockPlace, scratch: Path) -> None:
    """Store the lock, its side file and the captured packages and built wheels it names with the model's run.

    A server that does not take it is told in a note: the lock is still in the cache, and the work goes on.
    """
    run_id = place.bundle.facts.run_id
    if run_id is None:
        return
    path = scratch / LOCKFILE_NAME
    write_lockfile(lockfile, path)
    try:
        for package in captured_packages(lockfile):
            place.store.upload(run_id, [_captured_path(package, place.channel)], _stored_folder(_inside(package)))
        place.store.upload(run_id, [path, side] if side.is_file() else [path], RUN_FOLDER)
    except KbuildError as error:
        place.progress.tell(f"the lock could not be stored with the run: {error.message}")


def bring_packages(lockfile: Lockfile, place: LockPlace, scratch: Path, *, channels: Sequence[str] = ()) -> None:
    """Fetch what the place's channel does not have from the run, or from those ``channels`` that are folders here.

    Else the interpreter is captured again: its package's bytes depend on the interpreter alone. Raises HashMismatch for
    what none of them gives, CapturedOtherwise where the interpreter is captured as other bytes.
    """
    folders = channel_folders(channels)
    for package in captured_packages(lockfile):
        target = _captured_path(package, place.channel)
        if target.is_file() and digest_file(target).hex == package.sha256:
            continue
        name = f"{_stored_folder(_inside(package))}/{package.filename}"
        run_id = place.bundle.facts.run_id
        found = None if run_id is None else place.store.download(run_id, name, scratch / "captured")
        if found is None and package.manager == "conda":
            found = _copied(folders, _inside(package), package, scratch)
        if found is None and package.manager == "conda":
            found = _captured_again(package, scratch, place)
            if found is not None and digest_file(found).hex != package.sha256:
                raise CapturedOtherwise(
                    f"the captured {package.filename} that the lock names is neither here nor with the run, and Python "
                    f"{package.version} is captured as other bytes now: kbuild's capture has changed since, or it is "
                    "another build of that version",
                    hint=f"{mend(place.bundle)} --force makes a new lock with this machine's interpreter",
                )
        if found is None or digest_file(found).hex != package.sha256:
            built = package.manager == "pip"
            again = "builds it again (--allow-sdist)" if built else "makes a new lock with this machine's interpreter"
            what = f"the {'built' if built else 'captured'} {package.filename} that the lock names"
            raise HashMismatch(f"{what} is neither here nor with the run", hint=f"{mend(place.bundle)} --force {again}")
        with room_for(target, found.stat().st_size):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(found, target)


def _copied(folders: Sequence[Path], inside: PurePosixPath, package: LockedPackage, scratch: Path) -> Path | None:
    """A copy of the package as one of these channels has it, None where none has it."""
    for folder in folders:
        for place in (folder / inside, folder / "noarch" / inside.name):
            if place.is_file() and digest_file(place).hex == package.sha256:
                return Path(shutil.copyfile(place, scratch / inside.name))
    return None


def _captured_again(package: LockedPackage, scratch: Path, place: LockPlace) -> Path | None:
    """The package of an interpreter of this machine, None where it has none of that version and platform."""
    if package.platform.conda_subdir != host_platform().conda_subdir:
        return None
    from kbuild.environment.captured.capture import capture_interpreter  # reads ELF files
    from kbuild.environment.captured.interpreters import find_interpreter

    try:
        layout = find_interpreter(package.version, run=place.run, environ=place.environ)
        return capture_interpreter(scratch / "again", run=place.run, progress=place.progress, layout=layout).package
    except (InterpreterCaptureFailed, ProgramNotFound) as error:
        place.progress.note(f"{package.filename} cannot be made again: {error.message}")
        return None


def captured_packages(lockfile: Lockfile) -> list[LockedPackage]:
    """The packages that no public channel or index has: those of the local channel."""
    return [package for package in lockfile.packages if package.is_captured]


def _captured_path(package: LockedPackage, channel: Path) -> Path:
    return channel / _inside(package)


def _inside(package: LockedPackage) -> PurePosixPath:
    """Where a package lies in the local channel."""
    return PurePosixPath(package.url.removeprefix(f"${CHANNEL_VARIABLE}/").partition("#")[0])


def _stored_folder(inside: PurePosixPath) -> str:
    return f"{RUN_FOLDER}/{PACKAGES}/{inside.parent}"


def mend(bundle: ModelBundle) -> str:
    """What makes a new lock."""
    return f"kbuild lock {bundle.facts.run_id or bundle.root}"
