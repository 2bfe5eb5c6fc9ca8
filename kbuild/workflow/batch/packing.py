"""From a model's name to its archive: interpreter, packages, code and model, which run without being installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.cache.locks import in_use
from kbuild.cache.room import room_for
from kbuild.cache.tree import UNPACKED, cached_tree, writing
from kbuild.digest import Digest, canonical_json, digest_file, digest_json
from kbuild.errors import OutputError, PlatformError
from kbuild.files import link_or_copy
from kbuild.image.engine import PackedBlob
from kbuild.image.engines.archive import RECIPE, archive_entries, lay_entries
from kbuild.image.oci import media, tarball
from kbuild.image.oci.compress import check_compressor, write_blob
from kbuild.image.oci.tarball import Entry, tar_chunks
from kbuild.image.store.layer_cache import LayerCache
from kbuild.image.store.pack import output_error
from kbuild.plan.make import BASE_LAYER
from kbuild.platform import host_platform
from kbuild.progress import Progress, how_many
from kbuild.shipped import archive_files
from kbuild.verify.before_loading import check_model
from kbuild.workflow.build import check_no_credentials, check_own_modules, working_folder
from kbuild.workflow.engines import stage_layers
from kbuild.workflow.prepare import ImageRequest, Prepared, fetch_model, lock_environment, prepare
from kbuild.workflow.stopping import stopping_at_signals
from kbuild.workflow.tools import Tools

_ENDINGS: dict[str, media.Compression] = {".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tar": "none"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PackResult:
    """``path`` is the archive, ``digest`` that of its bytes, ``size`` in bytes; ``reused`` where it was there already.

    The digests are of the model bundle, the locked packages and the plan of the image that has the same in it.
    """

    path: Path
    digest: Digest
    size: int
    model_digest: Digest
    lock_digest: Digest
    plan_digest: Digest
    reused: bool


def compression_of(output: Path) -> media.Compression:
    """What an archive's name says it is packed with; raises OutputError."""
    for ending, compression in _ENDINGS.items():
        if output.name.endswith(ending):
            return compression
    raise OutputError(f"{output} does not say how it is to be packed", hint=f"end its name with {', '.join(_ENDINGS)}")


def pack_model(request: ImageRequest, tools: Tools, *, output: Path, reuse: bool = True) -> PackResult:
    """Write a model's archive to ``output``, whose name says how it is packed; one that is there is replaced.

    With ``reuse`` what this machine packed of the same plan is taken. Raises what building the image raises.
    """
    compression = compression_of(output)
    if output.is_dir():
        raise OutputError(f"{output} is a folder", hint="name a file")
    check_compressor(compression)
    with _archive(request, tools, reuse=reuse) as archive:
        packed = archive.packed(compression)
        # A copy: what a user has is theirs to change.
        temporary = output.absolute().with_name(f".{output.name}.{os.getpid()}")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(packed.path, temporary)
            temporary.replace(output)
        except OSError as error:
            error.filename = output  # of a full disk shutil names what it reads, in the cache
            raise output_error(error, output) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return replace(packed, path=output)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpacked:
    """A model's archive as a folder, and tools whose work ends with the command."""

    folder: Path
    tools: Tools
    made: _Archive

    def archive(self) -> Path:
        """The same as a file that Spark unpacks: of .tar.gz alone it keeps the modes (SPARK-38632)."""
        packed = self.made.packed("gzip")
        path = self.made.workdir / f"{packed.digest.hex}.tar.gz"
        if not path.exists():
            link_or_copy(packed.path, path)
        return path


@contextmanager
def unpacked_model(request: ImageRequest, tools: Tools) -> Iterator[Unpacked]:
    """The folder that a model's archive unpacks to, in the cache for the block.

    What loading the model does is looked at first: raises ModelNotTrusted, and PlatformError for another machine's.
    """
    with _archive(request, tools, reuse=True) as archive:
        prepared = archive.prepared
        if prepared.platform != host_platform():
            raise PlatformError(f"this machine is {host_platform()}, and runs nothing of {prepared.platform}")
        with archive.tools.phases("score") as progress:
            check_model(prepared.bundle, prepared.locked.lockfile.content, tools.guard, progress)
        folder = archive.unpacked()
        with in_use([folder]):
            yield Unpacked(folder=folder, tools=archive.tools, made=archive)


@contextmanager
def _archive(request: ImageRequest, tools: Tools, *, reuse: bool) -> Iterator[_Archive]:
    if len(request.lock.platforms) > 1:
        raise PlatformError("an archive is for one platform", hint="name one with --platform")
    with stopping_at_signals(tools) as tools, working_folder(tools) as workdir:
        bundle = fetch_model(request.model, tools, workdir, reuse=reuse)
        check_no_credentials(bundle)
        locked = lock_environment(bundle, request, tools)
        prepared = prepare(request, bundle, locked, request.lock.platforms[0], tools, workdir)
        yield _Archive(prepared=prepared, tools=tools, workdir=workdir, reuse=reuse)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Archive:
    """One that is there already, or is made when it is asked for."""

    prepared: Prepared
    tools: Tools
    workdir: Path
    reuse: bool

    def packed(self, compression: media.Compression) -> PackResult:
        """The archive in the cache."""
        cache = LayerCache(root=self.tools.cache / "packs", compression=compression)
        found = cache.get(self._key()) if self.reuse else None
        blob = found or self._pack(cache)
        return PackResult(
            path=cache.blobs / blob.digest.hex,
            digest=blob.digest,
            size=blob.size,
            model_digest=self.prepared.bundle.digest,
            lock_digest=self._lock(),
            plan_digest=self.prepared.plan.digest,
            reused=found is not None,
        )

    def unpacked(self) -> Path:
        """The same, as a folder of links."""

        def make(folder: Path) -> None:
            entries = self._entries("unpacked")
            with self.tools.phases("unpack") as progress, room_for(folder) as room:
                lay_entries(entries, folder, room)
                progress.made(how_many(len(entries), "file"))

        with writing("the unpacked archive"):
            return cached_tree(self.tools.cache / UNPACKED / f"archives-{RECIPE}" / self._key().hex, make, sealed=False)

    def _key(self) -> Digest:
        scorer = [[name, str(digest_file(file))] for name, file in archive_files().items()]
        return digest_json([RECIPE, tarball.RECIPE, scorer, self._facts()])

    def _lock(self) -> Digest:
        return self.prepared.locked.lockfile.packages_digest(self.prepared.platform)

    def _facts(self) -> dict[str, str | None]:
        """What the archive says of itself; the scorer writes it into what it makes."""
        return {
            "model": self.prepared.bundle.facts.uri,
            "model_digest": str(self.prepared.bundle.digest),
            "lock_digest": str(self._lock()),
            "plan_digest": str(self.prepared.plan.digest),
            "platform": str(self.prepared.platform),
            "glibc": self.prepared.base.glibc,
        }

    def _entries(self, purpose: str) -> list[Entry]:
        """The archive's members; their files lie in the cache and the working folder."""
        prepared, tools = self.prepared, self.tools
        prepared.check_base()
        check_own_modules(prepared, tools)
        layers = [layer for layer in prepared.plan.layers if layer.name != BASE_LAYER]
        context = stage_layers(prepared, tools, self.workdir / f"context-{purpose}", [layer.name for layer in layers])
        base = prepared.base.path if prepared.base.kind == "debs" else None
        facts = canonical_json(self._facts()) + b"\n"
        trees = [context.roots(layer.source) for layer in layers]
        entries = archive_entries(trees, base, archive_files(), facts, prepared.plan)
        prepared.record_base(tools)
        return entries

    def _pack(self, cache: LayerCache) -> PackedBlob:
        with writing("the archive"):
            entries = self._entries("packed")
            folder = self.workdir / "archive"
            folder.mkdir()
            with self.tools.phases("pack") as progress, room_for(folder) as room:
                total = sum(entry.size for entry in entries)
                chunks = counted(tar_chunks(entries), total, progress)
                written = write_blob(chunks, cache.compression, folder, scratch=".archive", ahead=room.add)
                progress.made(f"{how_many(len(entries), 'file')}, {total / 1e6:.0f} -> {written.size / 1e6:.0f} MB")
            blob = PackedBlob(
                media_type=media.LAYERS[cache.compression],
                digest=written.digest,
                size=written.size,
                diff_id=written.diff_id,
                path=folder / written.digest.hex,
            )
            cache.put(self._key(), blob)
            return blob


def counted(chunks: Iterator[bytes], total: int, progress: Progress) -> Iterator[bytes]:
    """The chunks, while ``progress`` is told of them."""
    done = 0
    progress.note("packing")
    for chunk in chunks:
        done += len(chunk)
        progress.count(min(done, total), total)  # headers and padding come on top
        yield chunk
