"""Layer compression with the same bytes on every machine, and blobs written in one pass over their content."""

from __future__ import annotations

import hashlib
import queue
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, Self, cast

import zstandard

from kbuild.digest import Digest
from kbuild.errors import CompressorUnfit, InvalidImage
from kbuild.files import BYTES
from kbuild.image.oci.media import Compression

# RFC 1952: deflate, no flags, time 0, no extra flags, system unknown: zlib's own header would name the system.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
_QUEUE = 8
# The release of libzstd that writes the bytes of every machine's images: 1.5.6 (zstandard 0.23) writes others.
_LIBZSTD = (1, 5, 7)
SETTINGS: dict[Compression, str] = {
    "none": "stored",
    "gzip": f"zlib, level {_GZIP_LEVEL}",
    "zstd": f"libzstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, level {_ZSTD_LEVEL}",
}
"""What besides the content decides compressed bytes, the same on every machine: ``check_compressor`` sees to it."""
# SHA-256 of a sample as zlib 1.2.13 compresses it. Releases of zlib agree on it, libraries in its place do not.
_SAMPLE = b"".join(b"%d some text, %d\n" % (number, number * number % 9973) for number in range(4000))
_GZIPPED = "b113cafb7711ee752f963dd6780876f9b84420ced8b3edebe005c5ed7fbdcf72"
_READ = 1 << 20
# Bytes of a layer that nobody minds, and how many times its size any larger one may have: weights that are nothing but
# zeros lie beside packages that shrink to a third.
_PLENTY, _SHRUNK = 1 << 30, 200
_BUFFER = 1 << 16  # bytes; of each header that tarfile takes from it, it copies what is left
DAMAGED = (tarfile.TarError, zlib.error, zstandard.ZstdError, ValueError, EOFError)
"""What reading a layer raises whose bytes are no tar, or are not packed as its media type says."""
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_LONGEST_HEADER = 1 << 20  # bytes; tarfile holds a header whole, and a name has 4096 at most
_DEEPEST = 200  # folders; who makes and removes them goes one call deeper for each


class Compressor(Protocol):
    """A stream compressor: the bytes of ``compress`` in their order, then of ``flush``, are the compressed stream."""

    def compress(self, data: bytes) -> bytes:
        """Take in ``data`` and return what is ready."""

    def flush(self) -> bytes:
        """End the stream and return the rest."""


class _Stored:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._deflate = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = 0
        self._size = 0
        self._header = _GZIP_HEADER

    def compress(self, data: bytes) -> bytes:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        ready, self._header = self._header + self._deflate.compress(data), b""
        return ready

    def flush(self) -> bytes:
        trailer = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        return self._header + self._deflate.flush() + trailer


def check_compressor(compression: Compression) -> None:
    """Raises CompressorUnfit where this machine's library writes other bytes than everybody else's."""
    if compression == "zstd" and zstandard.ZSTD_VERSION != _LIBZSTD:
        here = ".".join(map(str, zstandard.ZSTD_VERSION))
        raise CompressorUnfit(
            f"zstandard {zstandard.__version__} compresses with libzstd {here}, whose bytes are not those of"
            f" libzstd {'.'.join(map(str, _LIBZSTD))}: the image would have another digest than anywhere else",
            hint="pip install 'zstandard>=0.24,<0.26' (PyPI's wheels bring their libzstd), or build with"
            " --compression gzip",
        )
    if compression == "gzip":
        compressor = make_compressor(compression)
        packed = compressor.compress(_SAMPLE) + compressor.flush()
        if hashlib.sha256(packed).hexdigest() != _GZIPPED:
            raise CompressorUnfit(
                f"this Python's zlib ({zlib.ZLIB_RUNTIME_VERSION}) compresses to other bytes than zlib itself: the"
                " image would have another digest than anywhere else",
                hint="build with --compression zstd, or with a Python that is linked with zlib",
            )


def make_compressor(compression: Compression) -> Compressor:
    """A fresh compressor with kbuild's fixed settings: gzip level 6; zstd level 3, single-threaded, no checksum."""
    if compression == "gzip":
        return _Gzip()
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=0, write_checksum=False).compressobj()
    return _Stored()


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenBlob:
    """A blob and, for a layer, the digest of what is inside. ``size`` is of the blob in bytes."""

    digest: Digest
    size: int
    diff_id: Digest


def write_blob(
    chunks: Iterable[bytes],
    compression: Compression,
    blobs: Path,
    *,
    scratch: str,
    ahead: Callable[[int], None] = lambda size: None,
) -> WrittenBlob:
    """Compress a stream into ``blobs/<hex>`` in one pass: hashed on this thread, compressed and written on another.

    ``scratch`` names the temporary file below ``blobs``; ``ahead`` is told how many bytes are about to be written to
    it. Raises OSError, and whatever ``chunks`` and ``ahead`` raise; the temporary file is then gone.
    """
    temporary = blobs / scratch
    content = hashlib.sha256()
    writer = _Writer(temporary, make_compressor(compression), ahead)
    try:
        with writer:
            for chunk in chunks:
                writer.put(chunk)
                content.update(chunk)
        digest = Digest(writer.hash.hexdigest())
        temporary.replace(blobs / digest.hex)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return WrittenBlob(digest=digest, size=writer.size, diff_id=Digest(content.hexdigest()))


def read_layer(path: Path, compression: Compression) -> Iterator[bytes]:
    """The uncompressed bytes of a layer blob, in pieces.

    Raises OSError; ``zlib.error`` or ``zstandard.ZstdError`` where the blob is damaged; InvalidImage where it was made
    to be unpacked for ever.
    """
    size, most = 0, max(_PLENTY, path.stat().st_size * _SHRUNK)
    for chunk in _unpacked(path, compression):
        size += len(chunk)
        if size > most:
            raise InvalidImage(f"layer {path.name} cannot be read: a few bytes of it stand for over {most >> 20} MiB")
        yield chunk


def _unpacked(path: Path, compression: Compression) -> Iterator[bytes]:
    with path.open("rb") as file:
        if compression == "zstd":
            # Frames may follow each other (RFC 8878, 3): what is in the second is part of the layer, too.
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_size=_READ, read_across_frames=True)
            yield from iter(lambda: reader.read(_READ), b"")
        elif compression == "gzip":
            yield from _gunzip(iter(lambda: file.read(_READ), b""))
        else:
            yield from iter(lambda: file.read(_READ), b"")


def open_layer(chunks: Iterator[bytes]) -> tarfile.TarFile:
    """The tar whose bytes come in pieces, its members to be taken in their order.

    Where somebody made it to be read for ever it raises ``tarfile.ReadError``: a header that is megabytes long, or a
    member in more folders than anybody goes down.
    """
    return _LayerTar.open(
        fileobj=cast(IO[bytes], _ChunkStream(chunks)), mode="r|", bufsize=_BUFFER, encoding=BYTES[0], errors=BYTES[1]
    )


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENDED and header.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"the header of a member has {header.size} bytes")
        return header


class _LayerTar(tarfile.TarFile):
    tarinfo = _Header

    def next(self) -> tarfile.TarInfo | None:
        member = super().next()
        if member is not None and member.name.count("/") > _DEEPEST:
            raise tarfile.ReadError(f"a member lies in more than {_DEEPEST} folders: {member.name:.60}…")
        return member


class _ChunkStream:
    """Chunks as the file object that ``tarfile`` reads a stream from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk, self._at = b"", 0

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while size and (self._at < len(self._chunk) or self._next()):
            part = self._chunk[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _next(self) -> bool:
        self._chunk, self._at = next(filter(None, self._chunks), b""), 0  # gzip's headers give no bytes
        return bool(self._chunk)


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    # Several gzip members may follow each other (RFC 1952, 2.2): estargz and pigz write such layers.
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
    for chunk in chunks:
        data = chunk
        while data:
            if member.eof:
                member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            # A megabyte can stand for a gigabyte: it is taken in pieces of the size that is read.
            yield member.decompress(data, _READ)
            data = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise zlib.error("the gzip stream ends too early")


class _Writer:
    """Compresses, hashes and writes on a thread of its own; leaving the block ends the stream and raises its error."""

    def __init__(self, path: Path, compressor: Compressor, ahead: Callable[[int], None]) -> None:
        self._ahead = ahead
        self.hash = hashlib.sha256()
        self.size = 0
        self._file = path.open("wb", buffering=0)
        self._compressor = compressor
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUE)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def put(self, chunk: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(chunk)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._queue.put(None)
        self._thread.join()
        with self._file:
            if kind is not None:
                return
            if self._error is not None:
                raise self._error
            self._write(self._compressor.flush())

    def _work(self) -> None:
        for chunk in iter(self._queue.get, None):
            # After an error the rest is taken and dropped, so that the other side never waits for room.
            if self._error is None:
                try:
                    self._write(self._compressor.compress(chunk))
                except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
                    self._error = error

    def _write(self, data: bytes) -> None:
        self._ahead(len(data))
        self.hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
