from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import pickle
import sys
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from typing import Any

import cloudpickle
import joblib
import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import interpolate

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.unwrap import Unreadable, pickle_streams
from kbuild.audit.subject import Subject


class Evil:
    """Calls os.system where it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


class Loads:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return pickle.loads, (self.data,)


EVIL = pickle.dumps(Evil())


def joblib_bytes(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, **options)
    return file.getvalue()


def npy_bytes(value: Any) -> bytes:
    file = io.BytesIO()
    numpy.save(file, value, allow_pickle=True)
    return file.getvalue()


def zip_bytes(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data", data)
    return file.getvalue()


def tar_bytes(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("weights")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


ARRAYS = [
    numpy.arange(1000.0),
    numpy.array(["text", "x"]),
    numpy.array(["2026-01-01"], dtype="M8[D]"),
    numpy.zeros(3, dtype=[("a", "i4"), ("b", "U5")]),
    numpy.zeros((2, 3), bool, order="F"),
    numpy.float32(1),
    numpy.array([date(2026, 1, 1), OrderedDict(), "x"], dtype=object),
]
WRAPPINGS: list[Callable[[Any], bytes]] = [
    *(lambda value, p=protocol: pickle.dumps(value, p) for protocol in range(6)),
    lambda value: pickle.dumps(1) + pickle.dumps(value),
    lambda value: gzip.compress(pickle.dumps(value)),
    lambda value: bz2.compress(pickle.dumps(value)),
    lambda value: lzma.compress(pickle.dumps(value)),
    lambda value: zlib.compress(pickle.dumps(value)),
    lambda value: zip_bytes(pickle.dumps(value)),
    lambda value: tar_bytes(pickle.dumps(value)),
    lambda value: gzip.compress(tar_bytes(zip_bytes(pickle.dumps(value)))),
    lambda value: npy_bytes(numpy.array([value], dtype=object)),
    lambda value: joblib_bytes(value),
    *(lambda value, c=kind: joblib_bytes(value, compress=(c, 3)) for kind in ("zlib", "gzip", "bz2", "xz", "lzma")),
    lambda value: joblib_bytes([*ARRAYS, value]),
    lambda value: joblib_bytes([*ARRAYS, value], compress=3),
    lambda value: joblib_bytes({"x": numpy.array([1, value], dtype=object), "y": OrderedDict()}),
    lambda value: pickle.dumps({"inner": pickle.dumps(value)}),
    lambda value: pickle.dumps({"inner": pickle.dumps(value)}, 2),
    lambda value: pickle.dumps({"inner": gzip.compress(joblib_bytes([*ARRAYS, value]))}),
]


def scan(make_bundle: Any, data: bytes, path: str = "python_model.pkl") -> Any:
    return PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files={path: data})))


@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.parametrize("path", ["python_model.pkl", "artifacts/no_such_ending"])
def test_os_system_is_found_in_every_wrapping(make_bundle: Any, wrap: Callable[[Any], bytes], path: str) -> None:
    result = scan(make_bundle, wrap(Evil()), path)
    assert "pickle-dangerous" in {each.id for each in result.findings}
    assert any("posix.system" in each.evidence for each in result.findings)
    assert {each.severity for each in result.findings} == {"critical"}
    assert {each.where for each in result.findings} == {path}


@pytest.mark.parametrize("wrap", WRAPPINGS)
def test_data_in_every_wrapping_is_clean(make_bundle: Any, wrap: Callable[[Any], bytes]) -> None:
    result = scan(make_bundle, wrap({"a": numpy.arange(9.0), "d": date(2026, 1, 1), "o": OrderedDict(x=1)}))
    assert (result.findings, result.unchecked, result.looked_at) == ((), (), 1)


def test_a_pickle_of_a_pickle_loader(make_bundle: Any) -> None:
    found = {each.evidence for each in scan(make_bundle, pickle.dumps(Loads(EVIL))).findings}
    assert any("_pickle.loads" in each for each in found)
    assert any("posix.system" in each for each in found)


def test_a_broken_pickle_is_told_and_still_read(make_bundle: Any) -> None:
    result = scan(make_bundle, EVIL[:-1] + b"\xff")
    assert [each.id for each in result.findings] == ["pickle-dangerous"]
    assert "no proper end" in result.unchecked[0].reason


def test_what_is_named_a_pickle_and_is_none_is_unchecked(make_bundle: Any) -> None:
    for data in (b"not a pickle", b"PK\x03\x04damaged", b"\x1f\x8bdamaged", b"\x04\x22\x4d\x18lz4"):
        result = scan(make_bundle, data)
        assert result.findings == ()
        assert [each.where for each in result.unchecked] == ["python_model.pkl"], data


@pytest.mark.parametrize(
    "text", [b"cloudpickle==3.1.2\nmlflow==3.17.2\n", b"(c)\ncopyright me\n", b"{}", b"a,b\n1,2\n", b"", b"I1\n.", b"."]
)
def test_text_is_no_pickle(make_bundle: Any, text: bytes) -> None:
    result = scan(make_bundle, text, "notes.txt")
    assert (result.findings, result.unchecked, result.looked_at) == ((), (), 0)


def test_code_of_a_notebook_is_told(make_bundle: Any) -> None:
    [finding] = scan(make_bundle, cloudpickle.dumps(lambda x: x + 1)).findings
    assert (finding.id, finding.severity) == ("pickle-code", "medium")


def test_the_standard_library_beyond_data_is_unknown(make_bundle: Any) -> None:
    import string
    import wave

    assert [each.id for each in scan(make_bundle, pickle.dumps(wave.open)).findings] == ["pickle-unknown"]
    assert scan(make_bundle, pickle.dumps(string.Template)).findings == ()


def test_no_bundle_nothing_to_scan() -> None:
    assert PickleCheck().run(Subject(reference="x", kind="lock")).looked_at == 0


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_read_without_harm(data: bytes, with_header: bool) -> None:
    with contextlib.suppress(Unreadable):
        list(pickle_streams(b"\x80\x04" + data if with_header else data, expected=True))


class Marks:
    """Leaves a trace in this process where it is loaded."""

    def __reduce__(self) -> Any:
        return exec, ("import sys; sys.kbuild_was_here = True",)


MARKS = pickle.dumps(Marks())


@given(st.integers(0, len(MARKS)), st.binary(max_size=3))
def test_reading_a_pickle_never_runs_it(place: int, change: bytes) -> None:
    with contextlib.suppress(Unreadable):
        list(pickle_streams(MARKS[:place] + change + MARKS[place:], expected=True))
    assert not hasattr(sys, "kbuild_was_here")


def test_loading_it_would() -> None:
    pickle.loads(MARKS)
    del sys.kbuild_was_here  # type: ignore[attr-defined]


@pytest.mark.parametrize("order", [1, -1])
def test_of_the_wheels_of_several_platforms_the_one_that_is_here_tells(
    make_bundle: Any, make_lock: Any, make_entry: Any, tmp_path: Any, order: int
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xgboost/sklearn.py", "class XGBModel:\n    pass\n")
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    entries = [
        make_entry("xgboost", "3.0", platform=subdir, hash={"sha256": sha256})
        for subdir, sha256 in (("linux-64", digest), ("linux-aarch64", "1" * 64))
    ]
    wheel = tmp_path / digest / "xgboost-3.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(file.getvalue())
    data = b"cxgboost.sklearn\nXGBModel\n)R."
    subject = Subject(
        reference="x", kind="model", bundle=make_bundle(files={"m.pkl": data}), lock=make_lock(*entries[::order])
    )
    result = PickleCheck(downloads=tmp_path).run(subject)
    assert (result.findings, result.unchecked) == ((), ())


def named(*names: str) -> bytes:
    """A list of what it names, as protocol 2 has it."""
    return b"\x80\x02](" + b"".join("c{}\n{}\n".format(*each.rsplit(".", 1)).encode() for each in names) + b"e."


def scan_pt(make_bundle: Any, data: bytes, name: str = "artifacts/x.pt") -> Any:
    return PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files={name: data})))


def test_what_real_models_of_torch_pandas_and_scikit_learn_name_is_data(make_bundle: Any) -> None:
    """Met in models of torch 2.13 (quantised, of all dtypes, sharded), pandas 3.1 and scikit-learn 1.9; those of torch
    are in its own list of what is loaded with ``weights_only`` too (torch/_weights_only_unpickler.py)."""
    names = (
        *("torch.QInt8Storage", "torch.qint8", "torch.per_channel_affine", "torch.uint16", "torch.float8_e4m3fn"),
        *("torch.serialization._get_layout", "torch._utils._rebuild_nested_tensor", "torch.ScriptObject"),
        *("torch._utils._rebuild_meta_tensor_no_storage", "torch.distributed.checkpoint.metadata.Metadata"),
        *("torch.utils.data.dataset.TensorDataset", "sklearn.cluster._kmeans._kmeans_single_lloyd"),
    )
    of = interpolate.interp1d([0.0, 1, 2, 3], [0.0, 1, 4, 9], kind="cubic")
    # As Keras 3.15 writes it where torch is its backend.
    adam = b'{"module": "keras.src.backend.torch.optimizers.torch_adam", "class_name": "Adam", "config": {}}'
    for data in (named(*names), pickle.dumps([pandas.NA]), pickle.dumps(of, 2), adam):
        result = scan_pt(make_bundle, data, "artifacts/x")
        assert (result.findings, result.unchecked) == ((), ())
    others = ("torch.load", "torch.hub.load", "torch.utils.data.dataset.Dataset", "torch.serialization.load")
    result = scan_pt(make_bundle, named(*others))
    assert len(result.findings) == len(others)


def test_numbers_behind_the_pickles_of_torchs_oldest_format_are_none(make_bundle: Any) -> None:
    """Its storages follow five pickles, each after how many numbers it has: 128 begin as a pickle does."""
    data = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}, {}, ["0"]))
    storage = (128).to_bytes(8, "little") + numpy.zeros(128, "f4").tobytes()
    result = scan_pt(make_bundle, data + storage)
    assert (result.findings, result.unchecked) == ((), ())
    evil = data + storage + pickle.dumps(Evil(), 2)
    assert scan_pt(make_bundle, evil).findings != ()


def test_what_follows_the_numbers_of_an_array_is_read(make_bundle: Any) -> None:
    """numpy.load reads one array after another from the same file, and takes what is none for a pickle."""
    arrays = (
        numpy.arange(9.0),
        numpy.zeros((0, 3)),
        numpy.array("text"),
        numpy.zeros(2, [("a", "f4"), ("b", "i8", 2)]),
    )
    for data in map(npy_bytes, arrays):
        for whole in (data, data + npy_bytes(numpy.ones(3))):
            result = scan_pt(make_bundle, whole, "artifacts/x.npy")
            assert (result.findings, result.unchecked) == ((), ())
        for evil in (EVIL, b"cos\nsystem\n(S'true'\ntR.", npy_bytes(numpy.array([Evil()], dtype=object))):
            assert {each.id for each in scan_pt(make_bundle, data + evil, "artifacts/x.npy").findings} == {
                "pickle-dangerous"
            }
    negative = npy_bytes(numpy.arange(9.0)).replace(b"(9,)", b"(-9,)")
    assert scan_pt(make_bundle, negative + EVIL, "artifacts/x.npy").findings != ()


@pytest.mark.parametrize(
    "data", [b"\x93", b"\x80\x02\x93.", b"\x80\x04\x93NUMPY", b"\x80\x04K\x01\x93", b"\x80\x04\x95\xff."]
)
def test_what_stops_a_scanner_is_unchecked(make_bundle: Any, data: bytes) -> None:
    """picklescan raises ValueError where STACK_GLOBAL has nothing before it."""
    result = scan_pt(make_bundle, data)
    assert [each.where for each in result.unchecked] == ["artifacts/x.pt"]
