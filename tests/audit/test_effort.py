"""What is made to be endless is unchecked, and costs little: each bound is fed with what it is against."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import pickle
import resource
import struct
import tarfile
import time
import zipfile
import zlib
from dataclasses import replace
from typing import Any

import pytest
import zstandard

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.checks.secrets import SecretCheck
from kbuild.audit.pickled import beginnings, effort
from kbuild.audit.pickled.inert import InertReader
from kbuild.audit.subject import Subject

EVIL = b"cposix\nsystem\n(S'true'\ntR."


def scan(make_bundle: Any, data: bytes) -> Any:
    return PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files={"artifacts/x": data})))


def reason(make_bundle: Any, data: bytes) -> str:
    [unchecked] = scan(make_bundle, data).unchecked
    return str(unchecked.reason)


def sparse_tar(size: int) -> bytes:
    """A member that is one hole (GNU tar, "Old GNU Format")."""
    info = tarfile.TarInfo("hole")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386:398], block[398:410] = b"%011o\0" % size, b"%011o\0" % 0
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def zips(count: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            archive.writestr(str(number), b"")
    return file.getvalue()


def tars(count: int) -> bytes:
    return tarfile.TarInfo("a").tobuf() * count + bytes(1024)


LARGE = bytes(3 << 20)
PACKED = {
    "gzip": gzip.compress(LARGE),
    "bz2": bz2.compress(LARGE),
    "zstd": zstandard.compress(LARGE),
    "zip": b"".join(
        struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(part), 0, 1, 0) + b"a" + part
        for part in [zlib.compress(LARGE[: 1 << 20])[2:-4]] * 3
    ),
    "nested": gzip.compress(gzip.compress(bytes(1 << 20)) + bz2.compress(LARGE)),
    "in a text": b'{"a": "%s"}' % base64.b64encode(gzip.compress(LARGE)),
    "in a pickle": pickle.dumps([gzip.compress(bytes(1 << 20) + bytes([n])) for n in range(3)]),
    "a hole": sparse_tar(3 << 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("data", PACKED.values(), ids=PACKED)
def test_what_comes_out_of_a_file_is_bounded_in_all(
    make_bundle: Any, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    assert scan(make_bundle, data).unchecked == ()
    monkeypatch.setattr(effort, "_EXPANDED", 2 << 20)
    monkeypatch.setattr(effort, "_TIMES", 0)
    assert "MiB come out of it" in reason(make_bundle, data)


PARTS = {
    "zip": zips(300),
    "tar": tars(300),
    "frames": gzip.compress(b"") * 300,
    "zstd frames": zstandard.compress(b"") * 300,
    "pickles": b"cdatetime\ndate\n)R." * 300,
    "texts": pickle.dumps([EVIL.replace(b"true", b"%d" % number) for number in range(300)]),
    "base64": b" ".join(base64.b64encode(b"N0" + EVIL + b"%d" % number) for number in range(300)),
}


@pytest.mark.parametrize("data", PARTS.values(), ids=PARTS)
def test_its_parts_are_bounded_in_all(make_bundle: Any, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    assert scan(make_bundle, data).unchecked == ()
    monkeypatch.setattr(effort, "_PARTS", 200)
    told = reason(make_bundle, data)
    assert "more than 200 parts" in told or "directory of its archive is endless" in told


OBJECTS = {
    "lists": b"\x80\x04(" + b"]" * 300_000 + b"t.",
    "sets": b"\x80\x04(" + b"\x8f" * 300_000 + b"t.",
    "a memo": b"\x80\x04N" + b"\x94" * 300_000 + b".",
    "marks": b"\x80\x04" + b"(" * 90_000 + b"t" * 90_000 + b".",
}


@pytest.mark.parametrize("data", OBJECTS.values(), ids=OBJECTS)
def test_the_objects_of_its_pickles_are_bounded(make_bundle: Any, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(effort, "_BUILT", 1 << 20)
    assert "objects would take more than" in reason(make_bundle, data)


def again(what: bytes, times: int) -> bytes:
    """``a = (a, a)``, so many times."""
    return what + b"2\x86" * times


def long_and_none(number: int) -> bytes:
    """LONG1 and NONE: a value, and a key that has the hash of all others, as Python hashes modulo 2**61 - 1."""
    digits = pickle.encode_long(number * ((1 << 61) - 1))
    return b"\x8a" + bytes([len(digits)]) + digits + b"N"


ENDLESS = {
    "skippable frames": b"\x50\x2a\x4d\x18\0\0\0\0" * 400_000 + zstandard.compress(EVIL),
    "a key that holds itself": b"\x80\x04}" + again(b"N", 60) + b"Ns.",
    "a set of it": b"\x80\x04(" + again(b"N", 60) + b"\x91.",
    "a name of it": b"\x80\x04cbuiltins\ngetattr\nN" + again(b"N", 60) + b"\x86R.",
    "a method of it": b"\x80\x04cdatetime\ndate\n)R}\x8c\x10_response_method" + again(b"N", 60) + b"sb.",
    "a dtype of it": b"\x80\x04cnumpy\ndtype\n" + again(b"N", 60) + b"\x85R.",
    # Written by hand: to have such a dict takes this process seconds, too.
    "keys of one hash": b"\x80\x04}(" + b"".join(map(long_and_none, range(10_000))) + b"u.",
    "a state again and again": pickle.dumps({str(n): n for n in range(2_000)})[:-1]
    + b"q\x010cdatetime\ndate\n)R"
    + b"h\x01b" * 20_000
    + b".",
    "copyreg of copyreg": b"\x80\x04ccopyreg\n__newobj__\n(" + b"h\0" * 0 + b"ccopyreg\n__newobj__\n" * 20_000 + b"tR.",
    "lines in lines": b"\\" * 20_000 + b"A" * 16 + b"\\" * 20_000 + b"n" * 20_000 + b"A" * 16,
    "an array that is not there": b"\x80\x05\x96" + struct.pack("<Q", 40 << 30) + b".",
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS)
def test_nothing_is_endless(make_bundle: Any, data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scan(make_bundle, data)  # else nobody sees its end
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


def test_headers_behind_each_other_are_read_once(make_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opcodes = 0

    def count(data: bytes) -> int:
        nonlocal opcodes
        opcodes = 0
        scan(make_bundle, data)
        return opcodes

    load = InertReader.dispatch[pickle.PROTO[0]]

    def counted(reader: Any) -> None:
        nonlocal opcodes
        opcodes += 1
        load(reader)

    monkeypatch.setitem(InertReader.dispatch, pickle.PROTO[0], counted)
    frame = b"\x80\x04\x95\x02" + bytes(7) + b"\x80\x04"
    assert scan(make_bundle, b"\0" + frame + b"N0" + b"\x80\x02" + EVIL).findings
    assert count(b"\x80\x04" * 2000) <= 3 * 2000 and count(b"\0" + b"\x80\x04" * 2000) <= 3 * 2000


def test_the_beginnings_of_pickles_are_looked_for_by_and_by(make_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where windows meet, none is lost."""
    later = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    for window in (1, 7, 50):
        monkeypatch.setattr(beginnings, "_WINDOW", window)
        for data in (EVIL, b"(S'true'\niposix\nsystem\n.", later, later[2:]):
            for junk in (b"\0\xff" * 20, b"\0" + b"x" * 13, b"\0\xff" * 25 + b"cfoo\n"):
                assert scan(make_bundle, junk + data).findings, (window, data, junk)


def test_a_file_of_gigabytes_is_told_before_it_is_read(make_bundle: Any) -> None:
    bundle = make_bundle(files={"artifacts/weights.bin": b"x"})
    with (bundle.root / "artifacts/weights.bin").open("wb") as file:
        file.truncate(3 << 30)
    file = next(each for each in bundle.files if each.path == "artifacts/weights.bin")
    bundle = replace(bundle, files=(replace(file, size=3 << 30),))  # its digest is nothing that these look at
    began = time.monotonic()
    for check in (PickleCheck(), SecretCheck()):
        result = check.run(Subject(reference="x", kind="model", bundle=bundle))
        assert ["3072 MiB" in each.reason for each in result.unchecked] == [True], check.id
    assert time.monotonic() - began < 10
