from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.digest import digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.oci import tarball
from kbuild.image.oci.tarball import Entry, tar_chunks

parts = st.text(
    alphabet=st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=130
).filter(lambda part: part not in (".", ".."))
names = st.lists(parts, min_size=1, max_size=4).map("/".join)


@given(name=names, link=names, data=st.binary(max_size=1500), mode=st.integers(0, 0o7777), uid=st.integers(0, 2**20))
def test_python_reads_back_every_name_link_and_byte(name: str, link: str, data: bytes, mode: int, uid: int) -> None:
    entries = [
        Entry(name=name.encode(), kind=tarball.DIRECTORY, mode=mode, uid=uid),
        Entry(name=b"f/" + name.encode(), kind=tarball.FILE, mode=mode, gid=uid, size=len(data), source=data),
        Entry(name=b"l/" + name.encode(), kind=tarball.SYMLINK, mode=0o777, link=link.encode()),
    ]
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_chunks(entries)))) as archive:
        folder, file, symlink = archive.getmembers()
        assert (folder.name.rstrip("/"), folder.mode, folder.uid) == (name.rstrip("/"), mode, uid)
        assert (file.name, file.mode, file.gid, file.mtime) == (f"f/{name}", mode, uid, 0)
        content = archive.extractfile(file)
        assert content is not None
        assert content.read() == data
        assert (symlink.name, symlink.linkname) == (f"l/{name}", link)


def test_the_bytes_are_those_buildkit_wrote() -> None:
    """Seen with BuildKit 0.13: a base with a folder, a file, a link, and a name that needs a PAX record."""
    long = "n" * 90
    entries = [
        Entry(name=b"d", kind=tarball.DIRECTORY, mode=0o755),
        Entry(name=f"d/{long}".encode(), kind=tarball.DIRECTORY, mode=0o755),
        Entry(name=f"d/{long}/{long}".encode(), kind=tarball.DIRECTORY, mode=0o755),
        Entry(
            name=f"d/{long}/{long}/\u00fc-{long}.txt".encode(), kind=tarball.FILE, mode=0o644, size=3, source=b"hi\n"
        ),
        Entry(name=b"f", kind=tarball.FILE, mode=0o644, size=2, source=b"x\n"),
        Entry(name=b"l", kind=tarball.SYMLINK, mode=0o777, link=f"../{long}/{long}".encode()),
        Entry(name=b"p", kind=tarball.FIFO, mode=0o644),
        Entry(name=b"z", kind=tarball.HARD_LINK, mode=0o644, link=b"f"),
    ]
    assert (
        str(digest_bytes(b"".join(tar_chunks(entries))))
        == "sha256:ec6fcb3c42a81c15236d24fa9833f5989f534b7eeeb810d843a623838f3604f6"
    )


def test_a_file_that_shrinks_is_an_error_not_a_short_layer(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    entry = Entry(name=b"file", kind=tarball.FILE, mode=0o644, size=5, source=str(file))
    with pytest.raises(InvalidImage, match="shorter"):
        list(tar_chunks([entry]))


def test_a_size_beyond_octal_goes_into_a_record() -> None:
    header = tarball.header(Entry(name=b"big", kind=tarball.FILE, mode=0o644, size=8**11))
    info = tarfile.TarInfo.frombuf(header[1024:1536], "utf-8", "strict")
    assert b"size=8589934592\n" in header
    assert info.size == 0
