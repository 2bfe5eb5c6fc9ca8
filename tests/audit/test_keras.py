"""What loading models of Keras would import, in all the places where their configurations lie."""

from __future__ import annotations

import io
import json
import lzma
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from disguised import Code, call, named, whole

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.libraries import Libraries
from kbuild.audit.subject import Subject

DATA = Path(__file__).parent / "data"
RELU = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}
DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1, "activation": RELU}}


def sequential(*layers: Any, module: str = "keras", **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": "Sequential", "config": {"layers": list(layers)}, **more}


def packed(config: Any, *, escaped: bool = False) -> bytes:
    """Keras' own format: https://keras.io/guides/serialization_and_saving/."""
    text = json.dumps(config)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", text.replace("module", "m\\u006fdule") if escaped else text)
    return file.getvalue()


def function(module: str, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


@pytest.fixture
def scan(make_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A scan where the lock has Keras, which defines the class of such models."""
    wheel = tmp_path / "keras-3.15.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("keras/src/models/sequential.py", "class Sequential(Model):\n    pass\n")
        archive.writestr("keras/src/utils/tracking.py", "class TrackedList(list): ...\nclass Tracker: ...\n")
    made = Libraries(wheels={"keras": wheel}.get)
    monkeypatch.setattr(PickleCheck, "_libraries", lambda self, subject: made)

    def scan(data: bytes, **options: Any) -> Any:
        bundle = make_bundle(files={"artifacts/model": data})
        return PickleCheck(**options).run(Subject(reference="x", kind="model", bundle=bundle))

    return scan


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_model_that_keras_pickled_is_clean(scan: Any, protocol: int) -> None:
    data = lzma.decompress((DATA / f"keras_3.15_protocol_{protocol}.pkl.xz").read_bytes())
    result = scan(data)
    assert (result.findings, result.unchecked) == ((), ())
    evil = data.replace(b'"class_name": "GlorotUniform"', b'"class_name": "Lambda"       ', 1)
    assert evil != data and [each.id for each in scan(evil).findings] == ["model-code"]


def unpickled(*given: Any, of: bytes = named("keras.src.models.sequential", "Sequential")) -> bytes:
    return whole(call(call(named("builtins", "getattr"), Code(of), "_unpickle_model"), *given))


def in_memory(content: bytes) -> Code:
    return Code(call(named("_io", "BytesIO")) + b"(B" + struct.pack("<I", len(content)) + content + b"K\0Ntb")


EVIL = packed(sequential(function("os", "system")))
PICKLES = {
    "a configuration that imports": unpickled(in_memory(EVIL)),
    "a path in the place of bytes": unpickled("/tmp/model.keras"),
    "a file that is opened": unpickled(Code(call(named("io", "open"), "/tmp/model.keras", "rb"))),
    "bytes that are decoded": unpickled(
        Code(
            call(named("_io", "BytesIO"))
            + b"("
            + call(named("_codecs", "encode"), Code(call(named("_codecs", "encode"), "x", "rot13")), "latin1")
            + b"K\0Ntb"
        )
    ),
    "bytes in a class that loads them": unpickled(Code(call(named("_io", "BytesIO"), EVIL))),
    "another class": unpickled(in_memory(packed(sequential())), of=named("churn", "Model")),
    "another attribute": whole(
        call(call(named("builtins", "getattr"), Code(named("keras.src.models.sequential", "Sequential")), "load"), 1)
    ),
    "the method alone": whole(named("keras.src.models.sequential", "Sequential._unpickle_model")),
    "a pickle in the bytes": unpickled(in_memory(pickle.dumps(print))),
}


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES.keys())
def test_what_only_looks_like_a_model_of_keras_is_found(scan: Any, data: bytes) -> None:
    assert [each.severity for each in scan(data).findings if each.id.startswith("pickle-")]


CONFIGS = {
    "a function": function("os", "system"),
    "a class": {"module": "subprocess", "class_name": "Popen", "config": {"args": "true"}},
    "a function of Python's": function("builtins", "eval"),
    "deep inside": {"a": [{"b": {"module": "shutil", "class_name": "function", "config": "rmtree"}}]},
    "what Keras opens": function("keras.utils", "get_file"),
    "what lifts its guard": function("keras.config", "enable_unsafe_deserialization"),
    "another of its modules": function("keras.src.saving.saving_lib", "load_model"),
    "what Keras itself imported": {"module": "keras.src.utils.file_utils", "class_name": "os", "config": {}},
    "a type": {"module": "os", "class_name": "__typespec__", "spec_name": "popen", "config": []},
    "a file of words": {
        "module": "keras.layers",
        "class_name": "StringLookup",
        "config": {"vocabulary": "/etc/passwd"},
    },
    "a pickle of torch": {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "x"}},
    "a model elsewhere": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp/x"}},
}
PLACES = {
    "its own format": packed,
    "HDF5": lambda config: b"\x89HDF\r\n\x1a\n" + bytes(999) + json.dumps(config).encode() + bytes(99),
    "behind broken ones": lambda config: b'{"class_name": {"x' * 999 + json.dumps(config).encode(),
    "far apart": lambda config: json.dumps({"a": "x " * 800_000, **config, "b": "x " * 99}).encode(),
    "UTF-16": lambda config: json.dumps(config).encode("utf-16"),
    "UTF-16 behind blanks": lambda config: b"\n\0 \0" + json.dumps(config).encode("utf-16-le"),
    "UTF-32 behind blanks": lambda config: ("\r\n" + json.dumps(config)).encode("utf-32-be"),
    "what only begins as UTF-16": lambda config: b"{\0" + json.dumps(config).encode(),
    "escapes": lambda config: packed(config, escaped=True),
    "a saved model": lambda config: b"\x08\x01\x12" + json.dumps(config, separators=(",", ":")).encode() + b"\x1a",
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_what_a_configuration_imports_is_judged(scan: Any, config: Any) -> None:
    assert len({each.id for each in scan(packed(sequential(DENSE, config))).findings}) == 1


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_wherever_it_lies(scan: Any, place: Any) -> None:
    found = scan(place(sequential(DENSE, function("os", "system"))))
    assert "pickle-dangerous" in {each.id for each in found.findings}


def test_what_keras_writes_is_no_finding(scan: Any) -> None:
    own = {"module": None, "class_name": "Net", "config": {}, "registered_name": "churn>Net"}
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    functional = {"module": "keras.src.models.functional", "class_name": "Functional", "config": {"layers": [DENSE]}}
    lookup = {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": ["a", "b"]}}
    ops = function("keras.ops", "add")
    result = scan(packed(sequential(DENSE, own, policy, functional, lookup, ops, build_config={"input_shape": [1]})))
    assert (result.findings, result.unchecked) == ((), ())
    assert scan(packed({"class_name": "A", "config": {}, "module": 1, "x": [None, "class_name"]})).findings == ()


def test_what_the_policy_allows_is_none_either(scan: Any) -> None:
    data = packed(sequential({"module": "keras_hub.layers", "class_name": "RMSNormalization", "config": {}}))
    assert [each.id for each in scan(data).findings] == ["pickle-unknown"]
    assert scan(data, allowed=("keras_hub.layers.*",)).findings == ()


def test_a_configuration_of_other_types_is_read_all_the_same(scan: Any) -> None:
    long = b'"n": ' + b"9" * 5_000  # more figures than int() takes
    for data in (b'{"class_name": ["a"], "config": {}}', b'{"class_name": "a", "config": {' + long + b"}}"):
        assert (scan(data).findings, scan(data).unchecked) == ((), ())
    behind = b'{"class_name": ["a"], "config": {' + long + b', "x": ' + json.dumps(function("os", "system")).encode()
    assert "pickle-dangerous" in {each.id for each in scan(behind + b"}}").findings}


def test_classes_of_keras_own_that_make_no_parts_of_models_are_told(scan: Any) -> None:
    own = {"module": "keras.src.ops.numpy", "class_name": "Add", "config": {}}
    other = {"module": "keras.src.export.saved_model", "class_name": "ExportArchive", "config": {}}
    assert scan(packed(sequential(own))).findings == ()
    assert [each.id for each in scan(packed(sequential(own, other))).findings] == ["pickle-unknown"]


@pytest.mark.parametrize("data", [b'"class_name"' + b'{"' * 300_000, b'"class_name"' + b'{"a":' * 100_000])
def test_what_is_no_configuration_costs_little(scan: Any, data: bytes) -> None:
    begin = time.process_time()
    result = scan(data)
    assert time.process_time() - begin < 5  # it took 39 s
    assert result.findings == () and [each.where for each in result.unchecked] == ["artifacts/model"]


@pytest.mark.slow
def test_noise_of_megabytes_is_read_to_its_end(scan: Any) -> None:
    noise = numpy.random.default_rng(1).bytes(4 << 20).replace(b"PK\x03\x04", b"")
    result = scan(noise + b'"class_name"' + json.dumps(function("os", "system")).encode())
    assert "pickle-dangerous" in {each.id for each in result.findings} and result.unchecked == ()


def test_the_lists_that_keras_keeps_of_layers_are_data(scan: Any) -> None:
    data = whole(named("keras.src.utils.tracking", "TrackedList") + b")R")
    assert scan(data).findings == ()
    assert {each.id for each in scan(data.replace(b"\x0b\0\0\0TrackedList", b"\7\0\0\0Tracker")).findings} == {
        "pickle-unknown"
    }
