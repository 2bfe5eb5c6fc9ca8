from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.digest import digest_bytes
from kbuild.errors import BaseImageError
from kbuild.image.base.look import check_libc, look_into
from kbuild.image.engine import EngineOutput, RawLayer
from kbuild.image.store.pack import pack
from kbuild.plan.base import BaseFacts, ResolvedBase
from kbuild.platform import Platform
from kbuild.progress import Silent

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
LINK, HARD, GONE = "-> ", "=> ", None
Layer = dict[str, bytes | str | None]
X86, ARM, X32 = 62, 183, 3  # e_machine, as elf(5) has them


@dataclass(frozen=True)
class Tar:
    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data


def elf(machine: int, text: bytes = b"") -> bytes:
    """The header of a shared object with no sections, and a text after it."""
    header = struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 0, 64, 0, 0)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + header + text


def banner(version: str) -> bytes:
    return (
        b"GNU C Library (Debian GLIBC " + version.encode() + b"-9) stable release version " + version.encode() + b".\n"
    )


def glibc(version: str = "2.36", machine: int = X86, folder: str = "lib/x86_64-linux-gnu") -> Layer:
    files: Layer = {f"{folder}/{name}": elf(machine) for name in ("libm.so.6", "libdl.so.2", "libpthread.so.0")}
    return {
        **files,
        f"{folder}/libc.so.6": elf(machine, banner(version)),
        f"{folder}/ld-linux-x86-64.so.2": elf(machine),
        "lib64/ld-linux-x86-64.so.2": f"{LINK}/{folder}/ld-linux-x86-64.so.2",
    }


def make_tar(layer: Layer) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in layer.items():
            folder, _, last = name.rpartition("/")
            member = tarfile.TarInfo(name if content is not GONE else f"{folder}/.wh.{last}".lstrip("/"))
            if isinstance(content, str):
                member.type = tarfile.SYMTYPE if content.startswith(LINK) else tarfile.LNKTYPE
                member.linkname = content[3:]
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            data = content if isinstance(content, bytes) else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def make_base(folder: Path, *layers: Layer) -> ResolvedBase:
    raw = tuple(RawLayer(content=Tar(make_tar(layer)), created_by="x") for layer in layers)
    image = pack(EngineOutput(layers=raw, config={}), EMPTY, folder / "base", engine="x", progress=Silent())
    return ResolvedBase(kind="layout", name="oci:base", digest=image.digest, path=image.layout)


def look(folder: Path, *layers: Layer, platform: Platform = AMD64) -> BaseFacts:
    return look_into(make_base(folder, *layers), platform, cache=folder / "cache")


def test_glibc_and_its_version_are_found_whatever_the_folders(tmp_path: Path) -> None:
    assert look(tmp_path / "a", glibc()) == BaseFacts(glibc="2.36", shell=False)
    merged = {"lib": "-> usr/lib", "lib64": "-> usr/lib64", **glibc(folder="usr/lib/x86_64-linux-gnu")}
    del merged["lib64/ld-linux-x86-64.so.2"]
    merged["usr/lib64/ld-linux-x86-64.so.2"] = "-> ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    assert look(tmp_path / "b", merged).glibc == "2.36"
    old = glibc("2.28", folder="usr/lib64")  # red hat's, with the real file under another name
    old["usr/lib64/libc-2.28.so"] = old["usr/lib64/libc.so.6"]
    old["usr/lib64/libc.so.6"] = "-> libc-2.28.so"
    old["lib64"] = old.pop("lib64/ld-linux-x86-64.so.2") and "-> usr/lib64"
    assert look(tmp_path / "c", old).glibc == "2.28"


def test_this_machines_own_c_library(tmp_path: Path) -> None:
    import platform

    library = Path("/lib/x86_64-linux-gnu")
    name, version = platform.libc_ver()
    if name != "glibc" or not (library / "libc.so.6").is_file():
        pytest.skip("this machine's C library is not where Debian has it")
    names = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2")
    real: Layer = {f"lib/x86_64-linux-gnu/{name}": (library / name).read_bytes() for name in names}
    loader: Layer = {"lib64/ld-linux-x86-64.so.2": "-> /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"}
    assert look(tmp_path / "a", {**real, **loader}) == BaseFacts(glibc=version, shell=False)
    # Without its banner the symbols tell: the newest release that added any.
    libc = (library / "libc.so.6").read_bytes().replace(b"GNU C Library", b"XNU C Library")
    found = look(tmp_path / "b", {**real, **loader, "lib/x86_64-linux-gnu/libc.so.6": libc}).glibc
    assert (
        found is not None and found.split(".")[0] == "2" and 17 < int(found.split(".")[1]) <= int(version.split(".")[1])
    )


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([{}], "it has no glibc: there is no /lib64/ld-linux-x86-64.so.2"),
        ([{"bin/busybox": elf(X86)}], "it has no glibc"),
        ([{"lib/ld-musl-x86_64.so.1": elf(X86)}], "its C library is musl (/lib/ld-musl-x86_64.so.1)"),
        ([{"lib/libc.musl-x86_64.so.1": "-> ld-musl-x86_64.so.1", "lib/ld-musl-x86_64.so.1": elf(X86)}], "is musl"),
        # glibc's loader played by a library on musl
        (
            [{"lib64/ld-linux-x86-64.so.2": "-> ../lib/libgcompat.so.0", "lib/ld-musl-x86_64.so.1": elf(X86)}],
            "is musl",
        ),
        ([glibc(machine=ARM)], "is for aarch64, and the image is for linux/amd64"),
        (
            [{"lib/ld-linux-aarch64.so.1": elf(ARM), "lib/libc.so.6": elf(ARM)}],
            "/lib/ld-linux-aarch64.so.1 is for aarch64",
        ),
        ([{"lib/ld-linux.so.2": elf(X32)}], "/lib/ld-linux.so.2 is for 386, and the image is for linux/amd64"),
        ([{"lib64/ld-linux-x86-64.so.2": elf(X86)}], "it has /lib64/ld-linux-x86-64.so.2, but no libc.so.6"),
        ([{**glibc(), "lib/x86_64-linux-gnu/libc.so.6": b"#!/bin/sh\n"}], "libc.so.6 is not an ELF file"),
        ([{**glibc(), "lib/x86_64-linux-gnu/libc.so.6": elf(X86)}], "libc.so.6 is not glibc's"),
        ([glibc(), {"lib/x86_64-linux-gnu/libm.so.6": GONE}], "its glibc lacks libm.so.6"),
        ([glibc(), {"lib/x86_64-linux-gnu/libc.so.6": GONE}], "no libc.so.6"),
        ([glibc(), {"lib/.wh..wh..opq": b""}], "it has no glibc"),
        ([glibc(), {"lib64": "-> nowhere"}], "it has no glibc"),
        ([{"lib64": "-> lib64", "lib": "-> ../lib"}], "it has no glibc"),
    ],
)
def test_a_base_that_runs_no_python_of_ours_is_refused(tmp_path: Path, layers: list[Layer], said: str) -> None:
    base = make_base(tmp_path, *layers)
    facts = look_into(base, AMD64, cache=tmp_path)
    assert facts.fault is not None and said in facts.fault, facts
    with pytest.raises(BaseImageError, match=r"base image oci:base cannot run the image's Python: ") as caught:
        check_libc(base, facts)
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None and "debian:bookworm" in caught.value.hint


def test_a_later_layer_brings_or_replaces_the_c_library(tmp_path: Path) -> None:
    newer = {"lib/x86_64-linux-gnu/libc.so.6": elf(X86, banner("2.39"))}
    assert look(tmp_path / "a", glibc(), newer).glibc == "2.39"
    assert look(tmp_path / "b", {"lib": "-> usr/lib"}, glibc()).glibc == "2.36"
    # Taken away and brought again in one layer: what comes with the layer stays.
    again: Layer = {
        "lib/x86_64-linux-gnu/libc.so.6": elf(X86, banner("2.39")),
        "lib/x86_64-linux-gnu/.wh..wh..opq": b"",
    }
    assert look(tmp_path / "c", glibc(), {**glibc("2.39"), **again}).glibc == "2.39"
    hard = {"lib/x86_64-linux-gnu/libc-2.36.so": glibc()["lib/x86_64-linux-gnu/libc.so.6"], **glibc()}
    hard["lib/x86_64-linux-gnu/libc.so.6"] = "=> lib/x86_64-linux-gnu/libc-2.36.so"
    assert look(tmp_path / "d", hard).glibc == "2.36"


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ({"bin/sh": b""}, True),
        ({"bin/busybox": b"", "bin/sh": "-> busybox"}, True),
        ({"bin": "-> usr/bin", "usr/bin/dash": b"", "usr/bin/sh": "-> dash"}, True),
        ({"bin/sh": "-> dash"}, False),
        ({"bin/sh": "-> /opt/tools/bash"}, True),
        ({"usr/bin/sh": b""}, False),
        ({}, False),
    ],
)
def test_a_shell_is_what_bin_sh_leads_to(tmp_path: Path, files: Layer, there: bool) -> None:
    assert look(tmp_path, {**glibc(), **files}).shell is there


def test_a_base_is_looked_into_once(tmp_path: Path) -> None:
    base = make_base(tmp_path, glibc())
    facts = look_into(base, AMD64, cache=tmp_path / "cache")
    gone = ResolvedBase(kind="layout", name="oci:base", digest=base.digest, path=tmp_path / "nowhere")
    assert look_into(gone, AMD64, cache=tmp_path / "cache") == facts
    with pytest.raises(BaseImageError):
        look_into(gone, ARM64, cache=tmp_path / "cache")  # not asked before
    (note,) = (tmp_path / "cache/base-facts").iterdir()
    note.write_text("{")
    assert look_into(base, AMD64, cache=tmp_path / "cache") == facts
    assert check_libc(base, facts).glibc == "2.36"


def test_what_is_assembled_from_packages_is_known(tmp_path: Path) -> None:
    base = ResolvedBase(kind="debs", name="debian:x", digest=digest_bytes(b""), path=tmp_path, glibc="2.36")
    assert look_into(base, AMD64, cache=tmp_path) == BaseFacts(glibc="2.36", shell=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").touch()
    assert look_into(base, AMD64, cache=tmp_path).shell
