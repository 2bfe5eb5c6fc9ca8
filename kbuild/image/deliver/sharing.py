"""The layer cache that builders share through a registry, as builds use it: a help, and never a reason to fail.

What goes wrong with it is told, and the work is done as without it. Shared are the layers of the base, the interpreter,
the packages, what serves and the project's code, and which wheels are in one layer: so who takes them neither fetches
nor lays out a package. The model's own files are not shared: every builder fetches those.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kbuild.cache.notes import KEY_VARIABLE, has_stated_key, read_vouched, write_whole
from kbuild.cache.room import room_for
from kbuild.cache.scratch import scratch_folder
from kbuild.digest import Digest, digest_bytes, digest_file, digest_json
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import ConfigurationError, HashMismatch, InvalidReference, KbuildError, RegistryError
from kbuild.image.engine import PackedBlob
from kbuild.image.engines.native import copies_plan
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.packages.wheel_facts import split_record
from kbuild.image.registry.blob_places import BlobPlaces
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.split import is_of_model
from kbuild.progress import Progress, Silent, how_many

if TYPE_CHECKING:
    from kbuild.image.registry.shared_layers import SharedBlob, SharedLayers

_PARALLEL = 4
_SPLIT_TYPE = "application/vnd.kbuild.split.v1+json"
_LARGEST_SPLIT = 1 << 20  # bytes; that of 1,000 packages has 70,000
_NOTED = 5000


def parse_place(text: str, option: str) -> ImageReference:
    """Read ``REGISTRY/NAME``; raises InvalidReference."""
    place = ImageReference.parse(text)
    if place.tag is not None or place.digest is not None:
        raise InvalidReference(
            f"{option} {text} names an image, and the layers that builders share have a repository of their own",
            hint=f"{option} {place.with_tag(None).familiar}",
        )
    return place


def shared_keys(plan: BuildPlan) -> dict[str, Digest]:
    """Source -> key of the layers that are shared; none where the Dockerfile makes others than the plan's."""
    own = {layer.source for layer in plan.layers if is_of_model(layer.name)}
    return {source: key for source, key in layer_keys(plan).items() if source not in own} if copies_plan(plan) else {}


class LayerSharing:
    """One end of such a cache, to take or to give, for all builds of a process; safe for several threads. ``cache`` is
    this machine's own.

    Once the registry or the disk has failed it is asked nothing more. The other end is: who may not look into a
    repository that is not there yet may be the one who makes it.
    """

    def __init__(self, place: ImageReference, cache: Path) -> None:
        self.place = place
        self._cache = cache
        self._places = BlobPlaces(root=cache / "registries")
        self._failed = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._given: set[str] = set()
        self._note = cache / "registries" / f"shared-{digest_bytes(place.name.encode()).hex}.json"

    def bring(self, keys: Mapping[str, Digest], layers: LayerCache, progress: Progress) -> dict[str, PackedBlob]:
        """Source -> layer, of the keys that the registry has one for; it is in ``layers`` then."""
        found: dict[str, PackedBlob] = {}
        if not keys or self._failed.is_set():
            return found
        self._tell_of_own_key(f"of {self.place.name} only what this user wrote counts", progress)
        progress.note(f"asking {self.place.name} for {how_many(len(keys), 'layer')}")
        with self._helping(progress), scratch_folder(layers.root, ".shared-") as scratch:
            done = _Sum(progress)
            with ThreadPoolExecutor(_PARALLEL) as pool:
                shares = [list(keys)[number::_PARALLEL] for number in range(min(_PARALLEL, len(keys)))]
                jobs = [pool.submit(self._bring, keys, share, layers, scratch, done) for share in shares]
            for job in jobs:
                brought, wrong = job.result()
                found |= brought
                for error in wrong:
                    self._tell(error, progress)
            self._places.add(self.place, (blob.digest for blob in found.values()))
        size = sum(blob.size for blob in found.values())
        progress.made(f"{len(found)} of {how_many(len(keys), 'layer')}, {size / 1e6:.0f} MB, from {self.place.name}")
        return found

    def _bring(
        self, keys: Mapping[str, Digest], sources: Sequence[str], layers: LayerCache, scratch: Path, done: _Sum
    ) -> tuple[dict[str, PackedBlob], list[HashMismatch]]:
        """What is found, and of which it is not what somebody vouches for; one connection, for one thread."""
        found: dict[str, PackedBlob] = {}
        wrong: list[HashMismatch] = []
        with closing(self._connect()) as client:
            for source in sources:
                if self._failed.is_set():
                    break
                try:
                    blob = client.find(layers.packed_key(keys[source]))
                    if blob is None or blob.diff_id is None:
                        continue
                    with room_for(scratch / source, blob.size):
                        client.fetch(blob, scratch / source, done.part())
                        layers.put(keys[source], _as_packed(blob, blob.diff_id, scratch / source))
                except HashMismatch as error:
                    wrong.append(error)
                    continue
                except (KbuildError, OSError):
                    self._failed.set()
                    raise
                kept = layers.get(keys[source])
                if kept is not None:
                    found[source] = kept
        return found, wrong

    def bring_split(self, wheels: tuple[LockedPackage, ...], progress: Progress) -> None:
        """Which of these wheels share a layer, as another builder found out of their files."""
        record = split_record(wheels, self._cache)
        if not wheels or _is_known(record) or self._failed.is_set():
            return
        with (
            self._helping(progress),
            closing(self._connect()) as client,
            scratch_folder(self._cache / "layers", ".shared-") as scratch,
        ):
            blob = client.find(_split_key(record))
            if blob is not None and blob.size <= _LARGEST_SPLIT:
                client.fetch(blob, scratch / "split", progress)
                write_whole(record, (scratch / "split").read_bytes())

    def give(
        self,
        plan: BuildPlan,
        wheels: tuple[LockedPackage, ...],
        layers: LayerCache,
        progress: Progress,
        *,
        built: bool,
    ) -> None:
        """Have the registry hold the shared layers of an image of this machine; what it has is not sent.

        Where nothing was ``built`` now it is not even asked for what it had once.
        """
        found = {key: layers.get(key) for key in shared_keys(plan).values()}
        blobs = {layers.packed_key(key): blob for key, blob in found.items() if blob is not None}
        if not blobs:
            progress.tell(f"{self.place.name} is given nothing: only layers that the native engine packs are shared")
            return
        with self._one_at_a_time, self._helping(progress):
            known = self._given if built else {*self._given, *self._noted()}
            missing = {key: blob for key, blob in blobs.items() if key.hex not in known}
            if not missing or self._failed.is_set():
                return
            self._tell_of_own_key(f"what {self.place.name} is given counts for this user alone", progress)
            sent = size = 0
            with (
                closing(self._connect()) as client,
                scratch_folder(self._cache / "layers", ".shared-") as scratch,
            ):
                for key, blob in missing.items():
                    if self._put(client, key, _as_shared(blob), blob.path, scratch, progress):
                        sent, size = sent + 1, size + blob.size
                    self._given.add(key.hex)
                record = split_record(wheels, self._cache)
                if wheels and _is_known(record):
                    self._put(client, _split_key(record), _split_blob(record), record, scratch, progress)
            self._places.add(self.place, (blob.digest for blob in missing.values()))
            noted = dict.fromkeys((*self._noted(), *(key.hex for key in missing)))
            write_whole(self._note, json.dumps([*noted][-_NOTED:]).encode())
            progress.made(f"{sent} of {how_many(len(blobs), 'layer')}, {size / 1e6:.0f} MB, sent to {self.place.name}")

    def _put(
        self, client: SharedLayers, key: Digest, blob: SharedBlob, path: Path, scratch: Path, progress: Progress
    ) -> bool:
        """Have the key lead to the blob; whether bytes of it were sent."""
        try:
            there = client.find(key)
        except HashMismatch as error:
            progress.tell(f"{error.message}; it is written anew")
            there = None
        except RegistryError:
            there = None  # some refuse to look into what is not there yet, and take what makes it
        if there is None:
            progress.note(f"giving {blob.digest} to {self.place.name}")
            source = self._places.find(self.place, blob.digest)
            sources = [] if source is None else [source]
            return client.put(key, blob, path, sources=sources, scratch=scratch, progress=progress)
        if there.digest != blob.digest:
            # Both are vouched for: two builders made different bytes of the same.
            progress.tell(
                f"{self.place.name} has {there.digest} where this machine made {blob.digest} of the same; "
                "kbuild verify --rebuild tells whether an image is made again as it was"
            )
        return False

    def _connect(self) -> SharedLayers:
        from kbuild.image.registry.shared_layers import SharedLayers  # requests; most builds ask no registry

        return SharedLayers(self.place)

    @contextmanager
    def _helping(self, progress: Progress) -> Iterator[None]:
        """A block that ends early, and not in an error, where the registry or the disk has one."""
        try:
            yield
        except ConfigurationError:
            raise  # of the key, without which no cache works
        except (KbuildError, OSError) as error:
            if not isinstance(error, HashMismatch):
                self._failed.set()
            self._tell(error, progress)

    def _tell(self, error: KbuildError | OSError, progress: Progress) -> None:
        hint = f" ({error.hint})" if isinstance(error, KbuildError) and error.hint else ""
        what = "something in" if isinstance(error, HashMismatch) else "the layer cache"
        progress.tell(f"{what} {self.place.name} is left out: {error}{hint}")

    def _tell_of_own_key(self, what: str, progress: Progress) -> None:
        if not has_stated_key():
            progress.tell(f"{KEY_VARIABLE} is not set: {what}; set it to a secret of all builders that share it")

    def _noted(self) -> list[str]:
        """What the registry had once: a hint, which nobody vouches for."""
        try:
            value = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return []
        return [str(each) for each in value] if isinstance(value, list) else []


def _as_packed(blob: SharedBlob, diff_id: Digest, path: Path) -> PackedBlob:
    return PackedBlob(media_type=blob.media_type, digest=blob.digest, size=blob.size, diff_id=diff_id, path=path)


def _as_shared(blob: PackedBlob) -> SharedBlob:
    from kbuild.image.registry.shared_layers import SharedBlob

    return SharedBlob(media_type=blob.media_type, digest=blob.digest, size=blob.size, diff_id=blob.diff_id)


def _is_known(record: Path) -> bool:
    """Whether a record can be read, and this key vouches for it: what somebody else wrote is as good as none."""
    try:
        read_vouched(record)
    except OSError:
        return False
    return True


def _split_key(record: Path) -> Digest:
    return digest_json(["split", record.name])


def _split_blob(record: Path) -> SharedBlob:
    from kbuild.image.registry.shared_layers import SharedBlob

    return SharedBlob(media_type=_SPLIT_TYPE, digest=digest_file(record), size=record.stat().st_size)


class _Sum:
    """Adds up the bytes of blobs that come side by side."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0

    def part(self) -> Progress:
        """Where one blob is counted."""
        return _Part(self)

    def add(self, size: int) -> None:
        """So many more."""
        with self._lock:
            self._done += size
            self._progress.count(self._done, None)


class _Part(Silent):
    def __init__(self, whole: _Sum) -> None:
        self._whole, self._counted = whole, 0

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        self._whole.add(done - self._counted)
        self._counted = done
