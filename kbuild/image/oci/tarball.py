"""Reproducible tar bytes: headers exactly as Go's ``archive/tar`` writes them for BuildKit's layers.

POSIX pax interchange format (IEEE 1003.1, "pax Interchange Format"); Go's choices: ustar when a name fits, else a PAX
record and an ASCII-only ustar header. All times are 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kbuild.errors import InvalidImage

FILE, HARD_LINK, SYMLINK, DIRECTORY, FIFO = b"0", b"1", b"2", b"5", b"6"
CHUNK = 1 << 20
RECIPE = 1
"""Changes whenever the same folder would become other tar bytes."""
_BLOCK = 512
_PAX_HEADER = b"x"
_MAX_OCTAL_SIZE = 8**11


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One member. ``name`` is relative, without a closing slash; ``source`` is a FILE's bytes or their path."""

    name: bytes
    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    link: bytes = b""
    source: str | bytes | None = None


def tar_chunks(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The tar of ``entries`` in their order, in pieces of about 1 MiB.

    Raises OSError when a file cannot be read and InvalidImage when its size has changed since it was listed.
    """
    pending: list[bytes] = []
    size = 0
    for entry in entries:
        for piece in _member(entry):
            pending.append(piece)
            size += len(piece)
            if size >= CHUNK:
                yield b"".join(pending)
                pending, size = [], 0
    pending.append(bytes(2 * _BLOCK))
    yield b"".join(pending)


def header(entry: Entry) -> bytes:
    """The header blocks of one member, its PAX record before it where one is needed."""
    name = entry.name + b"/" if entry.kind == DIRECTORY else entry.name
    records: dict[bytes, bytes] = {}
    if len(entry.link) > 100 or not entry.link.isascii():
        records[b"linkpath"] = entry.link
    if entry.size >= _MAX_OCTAL_SIZE:
        records[b"size"] = b"%d" % entry.size
    split = _split_name(name) if name.isascii() else None
    if split is not None and not records:
        return _ustar(entry, name=split[1], prefix=split[0], size=entry.size, link=entry.link)
    # Once there is a record at all, a long name goes into it too, even one that ustar could split.
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    size = 0 if b"size" in records else entry.size
    plain = _ustar(entry, name=_short_name(name), prefix=b"", size=size, link=_ascii(entry.link)[:100])
    return _pax_header(name, len(data)) + data + bytes(-len(data) % _BLOCK) + plain


def _member(entry: Entry) -> Iterator[bytes]:
    yield header(entry)
    if entry.kind != FILE or entry.source is None:
        return
    if isinstance(entry.source, bytes):
        yield entry.source + bytes(-entry.size % _BLOCK)
        return
    left = entry.size
    descriptor = os.open(entry.source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while left:
            data = os.read(descriptor, min(left, CHUNK))
            if not data:
                raise InvalidImage(f"{entry.source} became shorter while it was being packed")
            left -= len(data)
            yield data
    finally:
        os.close(descriptor)
    yield bytes(-entry.size % _BLOCK)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """ustar's ``(prefix, name)``, or None where the name does not fit (Go: ``splitUSTARPath``)."""
    if len(name) <= 100:
        return b"", name
    length = len(name)
    if length > 156:
        length = 156
    elif name.endswith(b"/"):
        length -= 1
    cut = name.rfind(b"/", 0, length)
    rest = len(name) - cut - 1
    if cut <= 0 or rest > 100 or rest == 0 or cut > 155:
        return None
    return name[:cut], name[cut + 1 :]


def _ustar(entry: Entry, *, name: bytes, prefix: bytes, size: int, link: bytes) -> bytes:
    return _block(name, entry.kind, entry.mode, entry.uid, entry.gid, size, link, prefix, devices=True)


def _pax_header(name: bytes, size: int) -> bytes:
    """The header of a PAX record; Go names it after the member and leaves the device fields empty."""
    folder, _, file = (name[:-1], b"", b"") if name.endswith(b"/") else name.rpartition(b"/")
    path = (folder + b"/" if folder else b"") + b"PaxHeaders.0" + (b"/" + file if file else b"")
    short = _ascii(path)[:100].rstrip(b"/")
    return _block(short, _PAX_HEADER, 0, 0, 0, size, b"", b"", devices=False)


def _short_name(name: bytes) -> bytes:
    """What fits of a name beside its PAX record; a directory cut at a slash ends without it, as Go leaves it."""
    full = _ascii(name)
    short = full[:100]
    if len(full) > 100 and short.endswith(b"/"):
        kept = len(full[:99].rstrip(b"/"))
        short = short[:kept] + b"\0" + short[kept + 1 :]
    return short


def _block(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, link: bytes, prefix: bytes, *, devices: bool
) -> bytes:
    block = bytearray(_BLOCK)
    block[0 : len(name)] = name
    block[100:108] = b"%07o\0" % mode
    block[108:116] = b"%07o\0" % uid
    block[116:124] = b"%07o\0" % gid
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[148:156] = b"        "
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    if devices:
        block[329:337] = b"0000000\0"
        block[337:345] = b"0000000\0"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n`` where the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(b"%d %s=%s\n" % (length, key, value)) != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _ascii(text: bytes) -> bytes:
    return bytes(byte for byte in text if 0 < byte < 128)
