from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kbuild.cache.tree import normalise_tree, tree_digest
from kbuild.errors import BaseImageError
from kbuild.image.base.debian.deb import STICKY, lay_out, read_deb

Entries = dict[str, bytes | str | None]
"""Content, ``> target`` for a symbolic link, ``= target`` for a hard link, None for a directory."""


def tar(entries: Entries) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if "/bin/" in name else 0o640
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                member.type = tarfile.SYMTYPE if content[0] == ">" else tarfile.LNKTYPE
                member.linkname = content[2:]
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content if isinstance(content, bytes) else b""))
    return buffer.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def make_deb(
    entries: Entries,
    suffix: str = ".xz",
    pack: Callable[[bytes], bytes] = lzma.compress,
    control: bytes = b"Package: x\n",
) -> bytes:
    members = {"debian-binary": b"2.0\n", "control.tar.gz": gzip.compress(tar({"./control": control}))}
    return ar({**members, f"data.tar{suffix}": pack(tar(entries))})


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".xz", lzma.compress),
        (".gz", gzip.compress),
        (".zst", zstandard.ZstdCompressor().compress),
        ("", bytes),
    ],
)
def test_every_compression_is_read(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    control, files = read_deb(make_deb({"./etc/x": b"odd"}, suffix, pack), "x")
    assert control == b"Package: x\n"
    assert files == {"etc/x": (b"odd", False)}


def test_usr_is_merged_and_documentation_left_out() -> None:
    _, files = read_deb(
        make_deb(
            {
                "./": None,
                "./lib/": None,
                "./lib64": "> usr/lib64",
                "./lib/x86_64-linux-gnu/libc.so.6": b"c",
                "./lib/alias": "= ./lib/x86_64-linux-gnu/libc.so.6",
                "./bin/true": b"t",
                "./usr/share/doc/x/changelog.gz": b"",
                "./usr/share/doc/x/copyright": b"(c)",
                "./usr/share/man/man1/true.1": b"",
            }
        ),
        "x",
    )
    assert files == {
        "usr/lib": (None, False),
        "usr/lib/x86_64-linux-gnu/libc.so.6": (b"c", False),
        "usr/lib/alias": (b"c", False),
        "usr/bin/true": (b"t", True),
        "usr/share/doc/x/copyright": (b"(c)", False),
    }


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "./a/../../x", ".."])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(BaseImageError, match="leads out of the image"):
        read_deb(make_deb({path: b""}), "x")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    packages = {"a": make_deb({"./usr/x": f"> {outside}"}), "b": make_deb({"./usr/x/y": b"evil"})}
    with pytest.raises(BaseImageError, match="/usr/x is a directory in one package and none in another"):
        lay_out(packages, root)
    assert list(outside.iterdir()) == []


def test_two_packages_may_not_disagree(tmp_path: Path) -> None:
    with pytest.raises(BaseImageError, match="/etc/x of b is something else in another package"):
        lay_out({"a": make_deb({"./etc/x": b"1"}), "b": make_deb({"./etc/x": b"2"})}, tmp_path)


def test_what_maintainer_scripts_do_is_done(tmp_path: Path) -> None:
    entries: Entries = {
        "./usr/share/ca-certificates/mozilla/b.crt": b"B\n",
        "./usr/share/ca-certificates/mozilla/a.crt": b"A\n",
        "./usr/lib64/ld.so": b"",
    }
    lay_out({"x": make_deb(entries)}, tmp_path)
    assert (tmp_path / "etc/ssl/certs/ca-certificates.crt").read_bytes() == b"A\nB\n"
    assert (tmp_path / "lib64").readlink() == Path("usr/lib64")
    assert (tmp_path / "lib64/ld.so").is_file()
    assert "nonroot:x:65532:65532:" in (tmp_path / "etc/passwd").read_text()
    assert (tmp_path / "var/lib/dpkg/status.d/x").read_bytes() == b"Package: x\n"
    for name in ("proc", "sys", "dev", "tmp", "run", "home/nonroot"):
        assert (tmp_path / name).is_dir()


def test_without_a_lib64_there_is_no_link_to_one(tmp_path: Path) -> None:
    lay_out({"x": make_deb({"./usr/lib/ld-linux-aarch64.so.1": b""})}, tmp_path)
    assert not os.path.lexists(tmp_path / "lib64")


def test_the_tree_depends_on_the_packages_alone(tmp_path: Path) -> None:
    packages = {"x": make_deb({"./usr/bin/x": b"1"}), "y": make_deb({"./etc/y": b"2"})}
    digests = set()
    for name, mask in (("a", 0o022), ("b", 0o077)):
        (tmp_path / name).mkdir()
        old = os.umask(mask)
        try:
            lay_out(dict(reversed(packages.items())) if name == "b" else packages, tmp_path / name)
        finally:
            os.umask(old)
        normalise_tree(tmp_path / name, sticky=STICKY)
        digests.add(tree_digest(tmp_path / name))
    assert len(digests) == 1
    assert (tmp_path / "b/tmp").stat().st_mode & 0o7777 == 0o1777


@given(st.binary(max_size=200))
def test_damaged_files_are_one_kind_of_error(data: bytes) -> None:
    good = make_deb({"./x": b"1"})
    for damaged in (data, good[: len(good) - 1 - len(data) % len(good)], b"!<arch>\n" + data):
        with pytest.raises(BaseImageError):
            read_deb(damaged, "x")
