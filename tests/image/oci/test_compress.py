from __future__ import annotations

import errno
import gzip
import io
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from packaging.requirements import Requirement

from kbuild.digest import digest_bytes
from kbuild.errors import CompressorUnfit
from kbuild.image.oci import compress
from kbuild.image.oci.compress import _ChunkStream, check_compressor, read_layer, write_blob
from kbuild.image.oci.media import Compression

DATA = b"".join(b"%d some text\n" % number for number in range(200_000))


def chunks() -> Iterator[bytes]:
    stream = io.BytesIO(DATA)
    return iter(lambda: stream.read(70_000), b"")


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_one_pass_gives_blob_and_diff_id(tmp_path: Path, compression: Compression) -> None:
    blob = write_blob(chunks(), compression, tmp_path, scratch=".new")
    (file,) = tmp_path.iterdir()
    assert file.name == blob.digest.hex == digest_bytes(file.read_bytes()).hex
    assert file.stat().st_size == blob.size
    assert blob.diff_id == digest_bytes(DATA)
    assert b"".join(read_layer(file, compression)) == DATA


@pytest.mark.parametrize("size", [1, 999, 70_000, 1 << 20])
def test_chunks_are_read_as_a_file(size: int) -> None:
    stream = _ChunkStream(chunks())
    pieces = list(iter(lambda: stream.read(size), b"")) if size > 1 else [stream.read(1), stream.read(len(DATA))]
    assert b"".join(pieces) == DATA
    assert {len(piece) for piece in pieces[:-1]} == {size}
    assert stream.read(size) == b""


def test_gzip_names_no_time_and_no_system(tmp_path: Path) -> None:
    blob = write_blob(chunks(), "gzip", tmp_path, scratch=".new")
    data = (tmp_path / blob.digest.hex).read_bytes()
    assert data[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    assert gzip.decompress(data) == DATA


def test_zstd_is_one_frame_that_anybody_reads(tmp_path: Path) -> None:
    blob = write_blob(chunks(), "zstd", tmp_path, scratch=".new")
    with zstandard.ZstdDecompressor().stream_reader((tmp_path / blob.digest.hex).read_bytes()) as reader:
        assert reader.read() == DATA


def test_an_error_while_reading_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 100
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output error"):
        write_blob(broken(), "zstd", tmp_path, scratch=".new")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_stops_the_reader_too(tmp_path: Path) -> None:
    (tmp_path / ".new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_blob((b"x" * (1 << 20) for _ in range(100)), "none", tmp_path, scratch=".new")
    assert list(tmp_path.iterdir()) == []


def test_gzip_members_one_after_the_other_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(b"one") + gzip.compress(b"two"))
    assert b"".join(read_layer(tmp_path / "blob", "gzip")) == b"onetwo"


def test_several_zstd_frames_are_one_layer_and_what_follows_them_is_damage(tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0note"
    (tmp_path / "blob").write_bytes(zstandard.compress(b"one") + skipped + zstandard.compress(b"two"))
    assert b"".join(read_layer(tmp_path / "blob", "zstd")) == b"onetwo"
    (tmp_path / "blob").write_bytes(zstandard.compress(b"one") + b"anything")
    with pytest.raises(zstandard.ZstdError):
        list(read_layer(tmp_path / "blob", "zstd"))


def test_a_cut_gzip_stream_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzip.compress(DATA)[:-20])
    with pytest.raises(zlib.error):
        list(read_layer(tmp_path / "blob", "gzip"))


def test_another_libzstd_is_refused_before_it_writes_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compressor("zstd")
    monkeypatch.setattr(zstandard, "ZSTD_VERSION", (1, 5, 6))
    monkeypatch.setattr(zstandard, "__version__", "0.23.0")
    said = r"zstandard 0\.23\.0 compresses with libzstd 1\.5\.6, .* libzstd 1\.5\.7"
    with pytest.raises(CompressorUnfit, match=said) as e:
        check_compressor("zstd")
    assert e.value.hint is not None and "zstandard>=0.24" in e.value.hint
    check_compressor("gzip")
    check_compressor("none")


def test_another_library_in_the_place_of_zlib_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_compressor("gzip")
    # As zlib-ng does: another stream for the same level.
    monkeypatch.setattr(compress, "_GZIP_LEVEL", 5)
    with pytest.raises(CompressorUnfit, match="compresses to other bytes than zlib itself"):
        check_compressor("gzip")
    check_compressor("zstd")


def test_the_declared_zstandard_is_the_one_that_is_checked() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    declared = next(each for each in pyproject["project"]["optional-dependencies"]["build"] if "zstandard" in each)
    # libzstd 1.5.7 came with 0.24.0 (its changelog).
    assert [*Requirement(declared).specifier.filter(["0.22.0", "0.23.0", "0.24.0", "0.25.0", "0.26.0"])] == [
        "0.24.0",
        "0.25.0",
    ]
