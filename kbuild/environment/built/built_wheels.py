"""Built wheels: which wheel each source distribution of a lock became, remembered so that it is that one for ever.

The wheel lies in the local channel as ``wheels/<sha256>/<file>``, and the lock names it there; the side file
``built-wheels.json`` beside the lock tells what it was built from and with.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from kbuild.cache.notes import is_vouched_for
from kbuild.cache.room import room_for
from kbuild.digest import digest_file
from kbuild.environment.built.sdists import BuiltWheel, build_wheel, check_rebuild
from kbuild.environment.index.download import fetch_packages
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.lockfile import CHANNEL_VARIABLE, PACKAGES, RUN_FOLDER, SDIST_MARK, SIDE_FILE, LockedPackage
from kbuild.errors import KbuildError, LockfileInvalid
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import ModelStore
from kbuild.process import Runner
from kbuild.progress import Progress

_FOLDER = "wheels"
_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelBuilds:
    """Turns source distributions into wheels. ``known`` are earlier builds, ``made`` collects those of this lock.

    ``fetch`` brings the wheel of an earlier build to its place in the channel, if it can. With ``again`` what is
    known is built once more, and has to be the same.
    """

    channel: Path
    downloads: Path
    run: Runner
    environ: Mapping[str, str] = field(repr=False)
    indexes: Indexes
    fetch: Callable[[BuiltWheel, Path], None]
    known: Iterable[BuiltWheel] = ()
    again: bool = False
    made: list[BuiltWheel] = field(default_factory=list)

    def wheel_of(self, package: LockedPackage, python: str, progress: Progress) -> BuiltWheel:
        """The wheel of a source distribution, in the channel. Raises what ``build_wheel`` does, and HashMismatch when
        building it again gives another wheel."""
        short = ".".join(python.split(".")[:2])
        # Of two platforms' entries for one source distribution the second finds what the first one made.
        made = _find(self.made, package, short)
        if made is not None:
            return made
        earlier = _find(self.known, package, short)
        if earlier is not None and not self.again and self._is_here(earlier):
            self.made.append(earlier)
            return earlier
        sdist = fetch_packages(
            [package],
            cache=self.downloads,
            channel=None,
            progress=progress,
            environ=self.environ,
            indexes=self.indexes,
        )[package]
        built = build_wheel(
            package,
            sdist,
            python=python,
            into=self.channel / _FOLDER,
            requires=None if earlier is None else earlier.requires,
            run=self.run,
            environ=self.environ,
            progress=progress,
        )
        if earlier is not None:
            check_rebuild(built, earlier)
        self.made.append(built)
        return built

    def side_file(self) -> bytes:
        """What to keep beside the lock; the bytes depend on the wheels alone."""
        ordered = sorted(self.made, key=lambda wheel: (wheel.name, wheel.sha256))
        value = {"version": _VERSION, "wheels": [asdict(each) for each in ordered]}
        return (json.dumps(value, indent=2) + "\n").encode()

    def _is_here(self, wheel: BuiltWheel) -> bool:
        path = self.channel / _FOLDER / wheel.sha256 / wheel.filename
        if not path.is_file():
            self.fetch(wheel, path)
        return path.is_file() and digest_file(path).hex == wheel.sha256


def find_builds(
    bundle: ModelBundle,
    indexes: Indexes,
    *,
    store: ModelStore,
    cache: Path,
    run: Runner,
    environ: Mapping[str, str],
    progress: Progress,
    again: bool,
) -> WheelBuilds:
    """The builds of a model's lock: what became of source distributions before, for its run and on this machine.

    Raises LockfileInvalid for a damaged side file.
    """
    run_id = bundle.facts.run_id

    def download(name: str, into: Path) -> Path | None:
        try:
            return None if run_id is None else store.download(run_id, f"{RUN_FOLDER}/{name}", into)
        except KbuildError as error:
            progress.tell(f"no {name} from run {run_id}: {error.message}")
            return None

    def fetch(wheel: BuiltWheel, target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="kbuild-wheel-") as scratch:
            name = f"{PACKAGES}/{_FOLDER}/{wheel.sha256}/{wheel.filename}"
            found = download(name, Path(scratch) / "wheel")
            if found is not None:
                with room_for(target, found.stat().st_size):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(found, target)

    with tempfile.TemporaryDirectory(prefix="kbuild-wheel-") as scratch:
        stored = download(SIDE_FILE, Path(scratch) / "side")
        made_here = [path for path in sorted((cache / "locks").glob(f"*/{SIDE_FILE}")) if is_vouched_for(path)]
        paths = [*([] if stored is None else [stored]), *made_here]
        known = tuple(wheel for path in paths for wheel in parse_side(path.read_bytes(), source=str(path)))
    return WheelBuilds(
        channel=cache / "channel",
        downloads=cache / "downloads",
        run=run,
        environ=environ,
        indexes=indexes,
        fetch=fetch,
        known=known,
        again=again,
    )


def wheel_url(wheel: BuiltWheel) -> str:
    """How a lock names a built wheel."""
    return f"${CHANNEL_VARIABLE}/{_FOLDER}/{wheel.sha256}/{wheel.filename}{SDIST_MARK}{wheel.sdist_sha256}"


def parse_side(content: bytes, *, source: str) -> tuple[BuiltWheel, ...]:
    """Read a side file; raises LockfileInvalid."""
    try:
        document = json.loads(content)
        if document["version"] != _VERSION:
            raise LockfileInvalid(f"{source}: version is {document['version']!r}, only {_VERSION} is known")
        return tuple(BuiltWheel(**{**each, "requires": tuple(each["requires"])}) for each in document["wheels"])
    except (ValueError, KeyError, TypeError) as error:
        raise LockfileInvalid(f"{source} is not a record of built wheels: {error!r}") from error


def _find(wheels: Iterable[BuiltWheel], package: LockedPackage, short: str) -> BuiltWheel | None:
    return next((each for each in wheels if (each.sdist_sha256, each.python) == (package.sha256, short)), None)
