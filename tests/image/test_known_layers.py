"""A layer that was read once is opened no more, and only what this user read counts."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from kbuild.audit.secrets import may_hold_secrets
from kbuild.cache import notes
from kbuild.digest import digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.compare import known_layers, layers
from kbuild.image.compare.known_layers import KnownLayers
from kbuild.image.oci.media import LAYERS

FILES = {
    "opt/env/a.dist-info/METADATA": b"Name: a\n\xff\x00",
    "app/.env": b"DB_PASSWORD=hunter22\n",
    "opt/env/bin/x": b"x" * 2000,
}


class Counted:
    """How many bytes of blobs were hashed, and how many layers were opened."""

    hashed = opened = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found = Counted()

    def digest(path: Path | str) -> object:
        found.hashed += Path(path).stat().st_size if not str(path).endswith(".py") else 0
        return notes.digest_file(path)

    def open_layer(*given: object) -> object:
        found.opened += 1
        return real(*given)  # type: ignore[arg-type]

    real = layers._read_tar
    monkeypatch.setattr(layers, "digest_file", digest)
    monkeypatch.setattr(known_layers, "digest_file", digest)
    monkeypatch.setattr(layers, "_read_tar", open_layer)
    return found


def write_layer(path: Path) -> bytes:
    with tarfile.open(path, "w") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o4755
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("opt/link")
        link.type, link.linkname = tarfile.SYMTYPE, "env"
        link.pax_headers = {"SCHILY.xattr.security.capability": "x"}
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("opt/.wh.gone"))
    return path.read_bytes()


def known(cache: Path, prefix: str = "opt/env") -> KnownLayers:
    return KnownLayers(cache=cache, prefix=prefix, wants=lambda path: path.endswith("METADATA"), scans=may_hold_secrets)


def test_the_second_time_nothing_is_read(tmp_path: Path, counted: Counted) -> None:
    blob = tmp_path / "blob"
    data = write_layer(blob)
    given = (blob, digest_bytes(data), LAYERS["none"])
    first = known(tmp_path / "cache").read(*given)
    assert (counted.hashed, counted.opened) == (len(data), 1)
    assert known(tmp_path / "cache").read(*given) == first
    assert (counted.hashed, counted.opened) == (len(data), 1)
    assert first == layers.read_members(*given, lambda path: path.endswith("METADATA"), may_hold_secrets)
    # Other rules, and --verify-cache, ask again; a copy is hashed once.
    known(tmp_path / "cache", "opt/other").read(*given)
    with notes.reading_all():
        known(tmp_path / "cache").read(*given)
    assert counted.opened == 4
    counted.hashed = 0
    (tmp_path / "copy").write_bytes(data)
    for _ in range(2):
        assert known(tmp_path / "cache").read(tmp_path / "copy", *given[1:]) == first
        assert known(tmp_path / "cache").read(*given) == first
    assert (counted.hashed, counted.opened) == (len(data), 4)


def test_a_layer_that_was_written_to_is_refused(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    data = write_layer(blob)
    given = (blob, digest_bytes(data), LAYERS["none"])
    known(tmp_path / "cache").read(*given)
    status = blob.stat()
    blob.write_bytes(data[:-1] + b"x")
    os.utime(blob, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InvalidImage, match="another digest"):
        known(tmp_path / "cache").read(*given)
    blob.unlink()
    with pytest.raises(InvalidImage, match="missing"):
        known(tmp_path / "cache").read(*given)


def test_what_another_wrote_counts_for_nothing(tmp_path: Path, counted: Counted) -> None:
    blob = tmp_path / "blob"
    data = write_layer(blob)
    given = (blob, digest_bytes(data), LAYERS["none"])
    first = known(tmp_path / "cache").read(*given)
    (note,) = (tmp_path / "cache" / "layer-members").iterdir()
    whole = note.read_bytes()
    for forged in (whole[:-1] + b"0" if whole[-1:] != b"0" else whole[:-1] + b"1", b"", whole[:40] + whole[41:]):
        note.write_bytes(forged)
        assert known(tmp_path / "cache").read(*given) == first
    assert counted.opened == 4
