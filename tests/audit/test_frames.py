"""Frames of compressed data that follow each other, and what lies between and after them.

What is one content is told by the readers that there are: gzip's, bz2's, lzma's and lz4's files of Python, and
zstandard's stream that reads across frames.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import pickle
import sqlite3
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import zstandard

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled import numbers_alone
from kbuild.audit.subject import Subject


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


PICKLE = pickle.dumps(Evil(), 4)
CUT = PICKLE.index(b"posix") + 2  # neither half names what it calls
ONE, TWO = PICKLE[:CUT], PICKLE[CUT:]
OWN = b"nothing of a pickle " * 9


def alone(data: bytes, **options: Any) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 6, **options}]
    return lzma.compress(data, format=lzma.FORMAT_ALONE, filters=filters)


def skipped(data: bytes, number: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + number, len(data)) + data


def read_zstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
        return reader.read()


def read_alone(data: bytes) -> bytes:
    return lzma.open(io.BytesIO(data), format=lzma.FORMAT_ALONE).read()


def read_lz4(data: bytes) -> bytes:
    return lz4.frame.open(io.BytesIO(data)).read()


def find(make_bundle: Any, data: bytes) -> set[str]:
    subject = Subject(reference="x", kind="model", bundle=make_bundle(files={"artifacts/x": data}))
    result = PickleCheck().run(subject)
    return {each.id for each in result.findings}


@pytest.mark.parametrize(
    "data, read",
    [
        (gzip.compress(ONE) + bytes(7) + gzip.compress(TWO), gzip.decompress),
        (gzip.compress(ONE) + bytes(5000) + gzip.compress(TWO), gzip.decompress),
        (lzma.compress(ONE) + alone(TWO), lzma.decompress),
        (alone(ONE) + lzma.compress(TWO), lzma.decompress),
        (alone(PICKLE, lc=0), lzma.decompress),
        (alone(PICKLE, lc=1, lp=2, pb=0), lzma.decompress),
        (alone(PICKLE, lc=0, dict_size=4097), read_alone),
        (lzma.compress(b"") + alone(PICKLE, lc=0), lzma.decompress),
        (zstandard.compress(ONE) + skipped(b"abc") + zstandard.compress(TWO), read_zstd),
        (skipped(b"") + zstandard.compress(ONE) + skipped(b"abc", 15) + zstandard.compress(TWO), read_zstd),
        (lz4.frame.compress(ONE) + skipped(b"abc") + lz4.frame.compress(TWO), read_lz4),
        (skipped(b"abc") + lz4.frame.compress(PICKLE), read_lz4),
    ],
    ids=list(range(12)),
)
def test_frames_that_a_reader_joins_are_one_content(
    make_bundle: Any, data: bytes, read: Callable[[bytes], bytes]
) -> None:
    assert read(data) == PICKLE
    assert find(make_bundle, data) == {"pickle-dangerous"}


@pytest.mark.parametrize(
    "inner", [PICKLE, gzip.compress(PICKLE), zlib.compress(PICKLE), alone(PICKLE)], ids=list(range(4))
)
@pytest.mark.parametrize(
    "around",
    [
        lambda inner: skipped(inner),
        lambda inner: skipped(inner, 14) + zstandard.compress(OWN),
        lambda inner: zstandard.compress(OWN) + skipped(inner),
        lambda inner: zstandard.compress(OWN) + skipped(inner) + zstandard.compress(OWN),
        lambda inner: skipped(inner) + lz4.frame.compress(OWN),
        lambda inner: zstandard.compress(OWN) + inner,
        lambda inner: gzip.compress(OWN) + inner,
        lambda inner: lzma.compress(OWN) + bytes(4) + inner,
    ],
    ids=list(range(8)),
)
def test_what_readers_skip_is_looked_into(make_bundle: Any, around: Callable[[bytes], bytes], inner: bytes) -> None:
    assert find(make_bundle, around(inner)) == {"pickle-dangerous"}


def test_what_readers_skip_is_looked_into_inside_of_a_pickle(make_bundle: Any) -> None:
    inner = skipped(zlib.compress(PICKLE)) + zstandard.compress(OWN)
    assert find(make_bundle, pickle.dumps({"a": inner})) == {"pickle-dangerous"}
    assert find(make_bundle, pickle.dumps({"a": alone(PICKLE, lc=0)})) == {"pickle-dangerous"}


@pytest.mark.parametrize(
    "data",
    [
        zstandard.compress(OWN) + skipped(struct.pack("<4I", 9, 9, 1, 0x8F92EAB1), 14),  # as seekable zstd ends
        gzip.compress(OWN) + bytes(512),
        lzma.compress(OWN) + bytes(8),
        skipped(b"x")[:6],
        b"\x04\0\0\0\0\0\0\0" * 64,
        struct.pack("<64q", *range(64)),
        alone(OWN)[:13] + bytes(100),
    ],
    ids=list(range(7)),
)
def test_what_holds_nothing_has_no_finding(make_bundle: Any, data: bytes) -> None:
    subject = Subject(reference="x", kind="model", bundle=make_bundle(files={"artifacts/x": data}))
    result = PickleCheck().run(subject)
    assert (result.findings, result.unchecked) == ((), ()) or data.startswith(b"]\0")


def test_tensors_that_are_a_zlib_stream_as_well_are_no_tensors_alone() -> None:
    header = b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'.ljust(0x9C78)
    assert not numbers_alone.is_tensors(struct.pack("<Q", len(header)) + header)
    assert numbers_alone.is_tensors(struct.pack("<Q", len(header) + 1) + header + b" ")


def tarred(data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("x")
        member.size, member.type = len(data), kind
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("kind", [tarfile.CONTTYPE, b"Z", b"8"])
def test_members_of_types_that_tar_does_not_know_are_files(make_bundle: Any, kind: bytes) -> None:
    data = tarred(zlib.compress(PICKLE), kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        content = archive.extractfile(archive.getmembers()[0])
        assert content is not None and zlib.decompress(content.read()) == PICKLE
    assert find(make_bundle, data) == {"pickle-dangerous"}


def test_an_archive_after_the_end_of_another_is_read(make_bundle: Any) -> None:
    data = tarred(OWN) + tarred(zlib.compress(PICKLE))
    with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as archive:
        assert len(archive.getmembers()) == 2
    assert find(make_bundle, data) == {"pickle-dangerous"}


@pytest.mark.parametrize("inner", [PICKLE[2:-1], zlib.compress(PICKLE)], ids=["pickle", "zlib"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_what_sqlite_cuts_into_pages_is_read_whole(
    make_bundle: Any, tmp_path: Path, inner: bytes, journal: str
) -> None:
    for number, size in enumerate(range(900, 1500, 60)):
        value = inner if inner.startswith(b"x") else b"\x80\x04X\xc8\0\0\0" + b"A" * 200 + b"0" + inner
        value += bytes(size) if inner.startswith(b"x") else b"0X" + struct.pack("<I", size) + b"A" * size + b"."
        with contextlib.closing(sqlite3.connect(tmp_path / f"{number}.db")) as opened:
            opened.execute("PRAGMA page_size = 512")
            opened.execute(f"PRAGMA journal_mode = {journal}")
            opened.execute('CREATE TABLE "a ""b" (k INTEGER PRIMARY KEY, v BLOB)')
            opened.execute('INSERT INTO "a ""b" VALUES (1, ?)', (value,))
            opened.commit()
        assert find(make_bundle, (tmp_path / f"{number}.db").read_bytes()) == {"pickle-dangerous"}


@pytest.mark.slow
def test_sqlite_that_is_broken_is_unchecked_and_one_of_words_is_clean(make_bundle: Any, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as opened:
        opened.execute("CREATE TABLE t (v TEXT)")
        opened.executemany("INSERT INTO t VALUES (?)", [("words " * each,) for each in range(0, 1500, 5)])
        opened.execute("CREATE VIEW w AS SELECT load_extension('x') FROM t")
        opened.commit()
    data = (tmp_path / "x.db").read_bytes()
    files = {"a.db": data, "b.db": data[:200] + b"\xff" * 4000 + data[4200:], "c.db": data[:20]}
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files=files)))
    assert {each.where for each in result.unchecked} == {"b.db", "c.db"} and not result.findings


@pytest.mark.parametrize(
    "column",
    ["zeroblob(900000000)", "printf('%.*c', 900000, 'x')", "hex(zeroblob(500000))"],
    ids=["large", "text", "hex"],
)
def test_what_sqlite_would_compute_is_bounded(make_bundle: Any, tmp_path: Path, column: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as opened:
        opened.execute("CREATE TABLE t (a)")
        opened.executemany("INSERT INTO t VALUES (?)", [(each,) for each in range(2000)])
        # After them, for SQLite computes it for each row that it is given: 2 GB of text.
        opened.execute(f"ALTER TABLE t ADD COLUMN b BLOB GENERATED ALWAYS AS ({column}) VIRTUAL")
        opened.commit()
    subject = Subject(reference="x", kind="model", bundle=make_bundle(files={"a.db": (tmp_path / "x.db").read_bytes()}))
    assert [each.where for each in PickleCheck().run(subject).unchecked] == ["a.db"]


# Of gzip's manual, snappy's framing_format.txt, lz4_Frame_format.md ("Legacy frame"), lzip's and zstd's manuals.
@pytest.mark.parametrize(
    "begin",
    [
        b"\x1f\x9d\x90",
        b"\x1f\x9d\x8c",
        b"\xff\x06\x00\x00sNaPpY",
        b"\x02\x21\x4c\x18",
        b"LZIP\x01\x0c",
        b"\x27\xb5\x2f\xfd",
    ],
)
def test_what_is_packed_in_formats_that_are_not_opened_is_unchecked(make_bundle: Any, begin: bytes) -> None:
    files = {"artifacts/x": begin + bytes(range(256)), "artifacts/y": gzip.compress(OWN) + begin + bytes(range(256))}
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files=files)))
    assert {each.where for each in result.unchecked} == set(files)
