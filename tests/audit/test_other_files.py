"""Formats of numbers that take them from other files. Those of HDF5 are written by h5py 3.16:

File(NAME, "w", libver=LIBVER)["e"] = ExternalLink("/etc/hostname", "/x")
File(NAME, "w", libver=LIBVER).create_dataset("w", (20,), "u1", external=[("/etc/hostname", 0, 10), ("other.raw", …)])
own: a dataset of ones, a soft link to it, and an attribute
NAME: create_dataset("d", data=arange(64, dtype="i4") % 9, chunks=(64,), **FILTERS); links: twelve soft links
virtual: a VirtualLayout of /etc/hostname
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.subject import Subject

HDF5 = Path(__file__).parent / "data/hdf5"


def read_files(make_bundle: Any, data: bytes) -> set[str]:
    bundle = make_bundle(files={"artifacts/x": data})
    found = PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle)).findings
    assert {each.id for each in found} <= {"pickle-unknown"}
    return {match[1] for each in found if (match := re.search(r"reads the file '(.*)', which", each.evidence))}


@pytest.mark.parametrize("writer", ["earliest", "latest"])
@pytest.mark.parametrize(
    "name, told", [("link", {"/etc/hostname"}), ("numbers", {"/etc/hostname", "other.raw"}), ("own", set())]
)
def test_hdf5_that_reads_other_files(make_bundle: Any, tmp_path: Path, name: str, writer: str, told: set[str]) -> None:
    data = (HDF5 / f"{name}-{writer}.h5").read_bytes()
    assert read_files(make_bundle, data) == told
    assert read_files(make_bundle, bytes(512) + data) == told
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("model.weights.h5", data)
    assert read_files(make_bundle, (tmp_path / "x.keras").read_bytes()) == told


def test_hdf5_whose_addresses_have_another_width_is_told(make_bundle: Any) -> None:
    data = bytearray((HDF5 / "link-latest.h5").read_bytes())
    data[9] = 4
    bundle = make_bundle(files={"artifacts/x.h5": bytes(data)})
    found = PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle)).findings
    assert any("addresses of 4 bytes" in each.evidence for each in found)


def test_hdf5_whose_dataset_lies_in_another_file_is_told(make_bundle: Any) -> None:
    assert read_files(make_bundle, (HDF5 / "virtual-latest.h5").read_bytes()) == {"/etc/hostname"}


@pytest.mark.parametrize("writer", ["earliest", "latest"])
@pytest.mark.parametrize("name", ["gzip", "lzf", "shuffle", "scaled", "chunks", "checksum"])
def test_hdf5_that_is_packed_by_filters_is_unchecked(make_bundle: Any, tmp_path: Path, name: str, writer: str) -> None:
    data = (HDF5 / f"{name}-{writer}.h5").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("model.weights.h5", data)
    whole = {"a": data, "b": bytes(512) + data, "c": (tmp_path / "x.keras").read_bytes()}
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files=whole)))
    hidden = name not in ("chunks", "checksum")
    assert {each.where for each in result.unchecked if "HDF5" in each.reason} == (set(whole) if hidden else set())
    assert not result.findings


@pytest.mark.slow
def test_hdf5_that_is_made_to_look_packed_everywhere_is_given_up(make_bundle: Any) -> None:
    data = b"\x89HDF\r\n\x1a\n" + b"\x0b\x20\0\0\x01\x20" * (1 << 20)
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files={"a": data})))
    assert [each.where for each in result.unchecked] == ["a"] and "too many ways" in result.unchecked[0].reason


def test_hdf5_whose_links_are_packed_is_unchecked(make_bundle: Any) -> None:
    data = (HDF5 / "links-latest.h5").read_bytes()
    heap = data.index(b"FRHP") + 7  # the length of what its filters are told
    files = {"a": data, "b": data[:heap] + b"\x08\0" + data[heap + 2 :]}
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files=files)))
    assert [each.where for each in result.unchecked] == ["b"]


def field(number: int, data: bytes) -> bytes:
    """Of a protocol buffer: bytes with their length."""
    size = len(data)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 0x7F | 0x80, size >> 7])]) + data


@pytest.mark.parametrize(
    "location, told",
    [
        ("weights.bin", False),
        ("part/weights..bin", False),
        ("/etc/passwd", True),
        ("../../weights.bin", True),
        ("part/../../weights.bin", True),
        ("..\\weights.bin", True),
        ("C:\\weights.bin", True),
        ("a/" * 90 + "../" * 95 + "etc/passwd", True),
    ],
)
def test_onnx_that_reads_outside_of_its_folder(make_bundle: Any, location: str, told: bool) -> None:
    entry = field(1, b"location") + field(2, location.encode())
    tensor = field(8, b"w") + field(13, entry) + b"\x70\x01"  # name, external_data, data_location
    model = b"\x08\x08" + field(7, field(2, b"g") + field(5, tensor))  # ir_version, graph: name, initializer
    assert read_files(make_bundle, model) == ({location.replace("\\", "\\\\")[:200]} if told else set())
