"""Pickles in encodings and streams that no name and no sign tells of, and code of TorchScript."""

from __future__ import annotations

import base64
import codecs
import io
import json
import os
import pickle
import quopri
import tracemalloc
import zipfile
import zlib
from random import Random
from typing import Any
from urllib.parse import quote_from_bytes

import numpy
import pytest
from disguised import call, named

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.effort import Effort
from kbuild.audit.pickled.texts import decoded
from kbuild.audit.pickled.unwrap import pickle_streams
from kbuild.audit.subject import Subject


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch /nowhere/mark",)


EVIL = [pickle.dumps(Evil(), protocol) for protocol in (0, 2, 5)]


def scan(make_bundle: Any, data: bytes) -> Any:
    bundle = make_bundle(files={"artifacts/x": data})
    return PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle))


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


WRITTEN = {
    "base32": base64.b32encode,
    "base32 in small letters": lambda data: base64.b32encode(data).lower().rstrip(b"="),
    "base85": base64.b85encode,
    "base85 of what is packed": lambda data: base64.b85encode(zlib.compress(data)),
    "ascii85": base64.a85encode,
    "ascii85 as Adobe has it": lambda data: b"x <~" + base64.a85encode(data, wrapcol=60) + b"~> y",
    "base64": base64.b64encode,
    "base16": base64.b16encode,
}


ASCII85 = [write for name, write in WRITTEN.items() if name.startswith("ascii85")]


@pytest.mark.parametrize("data", EVIL, ids=["0", "2", "5"])
@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN.keys())
def test_whatever_letters_it_is_written_in(make_bundle: Any, write: Any, data: bytes) -> None:
    text = write(data)
    # Ascii85 has letters that JSON writes otherwise, and nothing tells where it ends but its own signs.
    places = [text] if write in ASCII85 else [text, json.dumps({"model": text.decode()}).encode()]
    for place in places:
        assert "pickle-dangerous" in {each.id for each in scan(make_bundle, place).findings}


LETTERS = [write for name, write in WRITTEN.items() if write not in ASCII85]


@pytest.mark.parametrize("write", LETTERS)
def test_however_often_it_is_wrapped(make_bundle: Any, write: Any) -> None:
    """What stands before and after it in a pickle may be letters too: a length, and the next opcode."""
    lines = base64.encodebytes(write(EVIL[1]))
    for text in (write(deflated(EVIL[1])), base64.b64encode(write(EVIL[1])), write(base64.b64encode(EVIL[1])), lines):
        for place in (text, *(pickle.dumps([text, text.decode()], protocol) for protocol in (1, 2, 4))):
            assert "pickle-dangerous" in {each.id for each in scan(make_bundle, place).findings}, place


MAILED = {
    "uuencode": lambda data: b"a letter\n\n" + codecs.encode(data, "uu"),
    "quoted-printable": quopri.encodestring,
    "quoted-printable in a mail": lambda data: (
        b"MIME-Version: 1.0\n\nname=3Dx\n" + quopri.encodestring(data, quotetabs=True)
    ),
    "percent": lambda data: quote_from_bytes(data).encode(),
    "percent in a url": lambda data: (
        b'{"url": "https://x.example/?m=' + quote_from_bytes(data, safe="").encode() + b'"}'
    ),
}


@pytest.mark.parametrize("data", EVIL, ids=["0", "2", "5"])
@pytest.mark.parametrize("write", MAILED.values(), ids=MAILED.keys())
def test_what_mails_and_urls_have_bytes_in(make_bundle: Any, write: Any, data: bytes) -> None:
    assert "pickle-dangerous" in {each.id for each in scan(make_bundle, write(data)).findings}


# How formats that are no texts have a text: length and sign may be letters, and so may what follows it.
IN_BYTES = {
    "UBJSON": lambda text: b"{L" + bytes(7) + b"\x04lossSL" + len(text).to_bytes(8, "big") + text + b"L" + bytes(7),
    "CBOR": lambda text: b"\xa1\x65modely" + len(text).to_bytes(2, "big") + text,
    "MessagePack": lambda text: b"\x81\xa1m\xda" + len(text).to_bytes(2, "big") + text,
    "protobuf": lambda text: b"\x08\x01B" + bytes([0x80 | len(text) & 0x7F, len(text) >> 7]) + text,
    "cells": lambda text: b"\0\x04\x17" + b"name" + text + b"name",
}


@pytest.mark.parametrize("place", IN_BYTES.values(), ids=IN_BYTES.keys())
@pytest.mark.parametrize("write", [base64.b64encode, base64.urlsafe_b64encode, base64.b16encode])
def test_letters_before_and_after_it_hide_none(make_bundle: Any, write: Any, place: Any) -> None:
    for filling in (1, *range(24, 34)):  # of lengths some are letters, and some are not
        command = call(named("os", "system"), "x" * filling) + b"."
        result = scan(make_bundle, place(write(command).rstrip(b"=")))
        assert "pickle-dangerous" in {each.id for each in result.findings}, filling


@pytest.mark.slow
def test_names_and_numbers_of_things_are_none(make_bundle: Any) -> None:
    """As categories, columns and words of a vocabulary: of so many some read as a few opcodes."""
    random = Random(0)  # noqa: S311  any names
    ids = [f"{random.getrandbits(128):032x}" for _ in range(3_000)]
    keys = [base64.b64encode(random.randbytes(16)).decode() for _ in range(3_000)]
    words = ["-".join("".join(random.choices("aeiourstlnmdk", k=6)) for _ in range(5)) for _ in range(3_000)]
    for texts in (ids, keys, words):
        for data in (pickle.dumps(texts), pickle.dumps(texts, 2), json.dumps(texts).encode()):
            result = scan(make_bundle, data)
            assert (result.findings, result.unchecked) == ((), ())
    # Lines of letters that follow each other, as the older protocols name what is beside each other.
    lines = pickle.dumps([f"{'letters' * 3}", 1.5], 0) + b"a" * 17 + b"\nb\nc\nd\ne\nf\ng\n"
    assert scan(make_bundle, lines).unchecked == ()


@pytest.mark.parametrize("data", EVIL, ids=["0", "2", "5"])
def test_a_stream_without_a_header(make_bundle: Any, data: bytes) -> None:
    for packed in (deflated(data), deflated(deflated(data + bytes(9999)))):
        assert "pickle-dangerous" in {each.id for each in scan(make_bundle, packed).findings}


def test_blocks_of_nothing_before_it_hide_none(make_bundle: Any) -> None:
    """RFC 1951, 3.2.4: a stored block may be empty, and there may be any number of them."""
    packed = b"\0\0\0\xff\xff" * 1_000 + deflated(EVIL[1])
    assert "pickle-dangerous" in {each.id for each in scan(make_bundle, packed).findings}


def test_what_only_looks_like_one_is_nothing(make_bundle: Any) -> None:
    texts = [
        b"a text of words and NUMBERS2345 " * 999,
        bytes(range(33, 118)) * 99,
        numpy.random.default_rng(1).bytes(99_999),
    ]
    texts += [json.dumps({"key": "ABCDEFGH234567" * 9, "name": "some-name_of-it" * 9}).encode()]
    for text in texts:
        result = scan(make_bundle, text)
        assert (result.findings, result.unchecked) == ((), ())


# As torch.jit.save writes it (torch 2.5), its constants and data left out.
MODULE = """class Net(Module):
  __parameters__ = ["weight", "bias", ]
  __buffers__ = []
  weight : Tensor
  training : bool
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
    weight = self.weight
    _0 = torch.add(torch.matmul(x, torch.t(weight)), CONSTANTS.c0)
    _1 = ops.prim.NumToTensor(torch.size(_0, 0))
    {line}
    return torch.relu(_0)
"""


def scripted(line: str, *, text: str = MODULE, folder: str = "net/") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{folder}data.pkl", pickle.dumps({}, 2))
        archive.writestr(f"{folder}code/__torch__.py", text.format(line=line))
        archive.writestr(f"{folder}constants.pkl", pickle.dumps((), 2))
    return file.getvalue()


CALLS = {
    "a file that is mapped": '_2 = torch.from_file("/etc/passwd", True, 9, dtype=0)',
    "a file that is written": '_2 = torch.save(x, "/tmp/x")',
    "as a method": '_2 = (x).save("/tmp/x")',
    "as an operator": '_2 = ops.aten.from_file("/etc/passwd", True, 9)',
    "another library's": '_2 = ops.image.write_file("/tmp/x", x)',
    "another machine": '_2 = rpc_sync("worker", "f", (x,))',
    "another library's class": "_2 = __torch__.torch.classes.evil.Runner.__new__(__torch__.torch.classes.evil.Runner)",
    "deep in an expression": '_2 = [torch.neg(y) for y in [torch.from_file("a", False, 1)]]',
}


@pytest.mark.parametrize("line", CALLS.values(), ids=CALLS.keys())
def test_what_code_of_torchscript_calls_is_judged(make_bundle: Any, line: str) -> None:
    for folder in ("net/", "", "a/b/"):
        assert [each.id for each in scan(make_bundle, scripted(line, folder=folder)).findings] == ["pickle-unknown"]


HIDDEN = MODULE.format(line='_2 = torch.save(x, "/tmp/x")')


def test_no_trick_hides_code_of_torchscript(make_bundle: Any) -> None:
    """As torch reads it: its reader goes by the archive's directory, its lexer knows no coding."""
    # In UTF-7 three quotes begin in the first line, and end in the third.
    cookie = '_2 = "+ACIAIg-"\n    _3 = torch.save(x, "/tmp/x")\n    _4 = "+ACIAIgAj-"'
    line = scripted('_2 = torch.save(x, "/tmp/x")', folder="a\nb/")
    directory = named_member("net/code/aa/__torch__.py").replace(b"net/code/aa/", b"net/nothing/", 1)
    for data in (scripted(cookie, text="# coding: utf-7\n" + MODULE), line, directory):
        assert [each.id for each in scan(make_bundle, data).findings] == ["pickle-unknown"], data


def named_member(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", pickle.dumps({}, 2))
        archive.writestr(name, HIDDEN)
        archive.writestr("net/constants.pkl", pickle.dumps((), 2))
    return file.getvalue()


CACHED = """class Cache(Module):
  def save(self: __torch__.Cache, x: Tensor) -> Tensor:
    return x
class Net(Module):
  cache : __torch__.Cache
  weight : Tensor
  def save(self: __torch__.Net, x: Tensor) -> Tensor:
    return x
  def forward(self: __torch__.Net, x: Tensor) -> Tensor:
    cache = self.cache
    _0 = (cache).save(x, )
    _1 = (self).save((self.cache).save(x, ), )
    {line}
    return _1
"""


def test_methods_of_the_models_own_modules_are_none_of_torchs(make_bundle: Any) -> None:
    assert scan(make_bundle, scripted("pass", text=CACHED)).findings == ()
    for line in (
        '(self.weight).save("/tmp/x")',
        'weight = self.weight\n    (weight).save("/tmp/x")',
        'cache = x\n    (cache).save("/tmp/x")',
        '(self.cache.weight).save("/tmp/x")',
        'self = x\n    (self).save("/tmp/x")',
    ):
        assert [each.id for each in scan(make_bundle, scripted(line, text=CACHED)).findings] == ["pickle-unknown"], line


def test_what_computes_from_tensors_is_no_finding(make_bundle: Any) -> None:
    result = scan(make_bundle, scripted("_2 = ops.quantized.linear(x, __torch__.Other.forward(x))"))
    assert (result.findings, result.unchecked) == ((), ())
    [unchecked] = scan(make_bundle, scripted("_2 = ^Python()(x)")).unchecked
    assert "its code cannot be read" in unchecked.reason


def test_bytecode_and_exported_programs_name_their_operators(make_bundle: Any) -> None:
    bytecode = pickle.dumps((8, ("__torch__.Net.forward", (("operators", (("aten::from_file", "", 3),)),))), 2)
    exported = json.dumps({"graph_module": {"nodes": [{"target": "torch.ops.aten.from_file.default"}]}}).encode()
    for data in (bytecode, exported):
        assert [each.id for each in scan(make_bundle, data).findings] == ["pickle-unknown"]
    assert scan(make_bundle, exported.replace(b"from_file", b"add")).findings == ()


def node(operation: bytes) -> bytes:
    """A NodeDef in a saved_model.pb (node_def.proto): its name, its operation."""
    return b"\x0a\x01n\x12" + bytes([len(operation)]) + operation


OTHERS = {
    "YAML": b"model:\n  weights: !!python/object/apply:os.system [touch /nowhere/mark]\n",
    "YAML of a new object": b"- !!python/object/new:subprocess.Popen {args: touch}\n",
    "YAML of a function": b"f: !!python/name:os.system\n",
    "YAML of a module": b"f: !!python/module:antigravity\n",
    "YAML with a tag in full": b"a: !<tag:yaml.org,2002:python/object/apply:os.system> [x]\n",
    "YAML with tags named anew": b"%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system [x]\n",
    "YAML with a tag in figures": b"a: !!pyth%6Fn/object/apply:os.system [x]\n",
    "YAML with a full tag in figures": b"a: !<tag:yaml.org,2002:pyth%6fn/object/apply:os%2Esystem> [x]\n",
    "YAML with half a tag named anew": b"%TAG !x! tag:yaml.org,2002:py\n---\na: !x!thon/object/apply:os.system [x]\n",
    "YAML with the first tag named anew": b"%TAG ! tag:yaml.org,2002:python/\n---\n!object/apply:os.system [x]\n",
    "YAML in UTF-16": "a: !!python/object/apply:os.system [x]\n".encode("utf-16"),
    "YAML behind a mark": b"\xef\xbb\xbf!!python/object/apply:os.system [x]\n",
    "YAML in a set": b"{? !!python/object/apply:os.system [x]}\n",
    "jsonpickle with an escaped stroke": rb'{"py/reduce": [{"py\/type": "os.system"}, {"py/tuple": ["x"]}]}',
    "jsonpickle with an escape": rb'{"py\u002ftype": "o\u0073.system"}',
    "jsonpickle in UTF-16": json.dumps({"py/type": "os.system"}).encode("utf-16-le"),
    "jsonpickle of a module": json.dumps({"py/mod": "antigravity/antigravity"}).encode(),
    "an exported program with an escape": rb'{"target": "torch.ops.\u0061ten.from_file.default"}',
    "an exported program of another library": b'{"target": "torch.ops.image.write_file.default"}',
    "TensorFlow that prints into files": node(b"PrintV2"),
    "TensorFlow that saves data": node(b"SaveDatasetV2"),
    "TensorFlow that reads lines": node(b"TextLineDataset"),
    "TensorFlow that reads words": node(b"InitializeTableFromTextFileV2"),
    "TensorFlow that saves a slice": node(b"SaveSlices"),
    "TensorFlow that writes summaries": node(b"CreateSummaryFileWriter"),
    "TensorFlow in text": b'node { name: "n" op: "WriteFile" }',
    "YAML of Python's own": b"a: !!python/object/apply:eval ['1']\n",
    "jsonpickle": json.dumps({"py/reduce": [{"py/type": "os.system"}, {"py/tuple": ["touch x"]}]}).encode(),
    "jsonpickle of an object": json.dumps({"a": [{"py/object": "subprocess.Popen", "args": "x"}]}).encode(),
    "jsonpickle of a text": json.dumps({"py/repr": "os/os.system('x')"}).encode(),
    "jsonpickle in gzip": zlib.compress(json.dumps({"py/function": "os.system"}).encode()),
    "TensorFlow that writes": b"\x08\x01\x12\xff\x01" + node(b"WriteFile") + node(b"MatMul"),
    "TensorFlow that reads": node(b"MatMul") + node(b"ReadFile"),
    "TensorFlow that lists": node(b"MatchingFiles"),
    "TensorFlow that calls": node(b"EagerPyFunc"),
    "a Booster's file": b"\x80\x04\x8c\x0flightgbm.engine\x8c\x09CVBooster\x93\x8c\x06/tmp/x\x85R.",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
def test_what_other_formats_run_is_found(make_bundle: Any, data: bytes) -> None:
    assert {each.id for each in scan(make_bundle, data).findings} <= {"pickle-unknown", "pickle-dangerous"}
    assert len(scan(make_bundle, data).findings) >= 1


def test_texts_about_them_are_no_finding(make_bundle: Any) -> None:
    for data in (
        b'load("!!python/object/apply:os.system [x]")  # in a text it is none\n',
        b"a: !!float 1\nb: !!python/tuple [1, 2]\nc: python/object:os.system\n",
        json.dumps({"py": "py/object", "py/id": 3, "date": {"py/object": "datetime.datetime"}}).encode(),
        # What every SavedModel has that TensorFlow 2.21 and Keras 3.15 export, in the function that saves it.
        b"".join(map(node, (b"MatMul", b"ShardedFilename", b"SaveV2", b"MergeV2Checkpoints", b"RestoreV2"))),
        node(b"MatMul") + b"a WriteFile in words",
        b"a: !custom x\nb: !y!z c\n%TAG !y! tag:example.org,2000:python/\n---\nc: !y!name:os.system d\n",
        b'{"target": "torch.ops.higher_order.cond"}\ntorch.ops.image.read_file("x")\n',
    ):
        result = scan(make_bundle, data)
        assert (result.findings, result.unchecked) == ((), ())


def skops(module: str, name: str, loader: str, **more: Any) -> bytes:
    """A file as skops 0.16 writes it: MLflow has it load each type that the MLmodel beside it calls trusted."""
    text = {
        "__class__": "str",
        "__module__": "builtins",
        "__loader__": "JsonNode",
        "content": '"touch x"',
        "is_json": True,
    }
    args = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": [text]}
    node = {
        "__class__": name,
        "__module__": module,
        "__loader__": loader,
        "__reduce__": {"args": args},
        "content": text,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps({**node, **more, "protocol": 2, "_skops_version": "0.16"}))
    return file.getvalue()


def test_the_types_in_a_file_of_skops_are_judged(make_bundle: Any) -> None:
    """The first ran its text in a shell when skops 0.16 loaded it."""
    for data in (skops("os", "system", "LossNode"), skops("builtins", "eval", "FunctionNode")):
        assert {each.id for each in scan(make_bundle, data).findings} == {"pickle-dangerous"}
    method = {"obj": {"__class__": "dict", "__module__": "builtins", "__loader__": "DictNode"}, "func": "write_text"}
    old = {"module_path": "antigravity", "function": "fly"}
    for data in (
        skops("pathlib", "PosixPath", "MethodNode", content=method),
        skops("builtins", "function", "FunctionNode", content=old),
        skops("operator", "methodcaller", "OperatorFuncNode"),
    ):
        assert scan(make_bundle, data).findings != ()
    result = scan(make_bundle, skops("sklearn.linear_model._logistic", "LogisticRegression", "ObjectNode"))
    assert (result.findings, result.unchecked) == ((), ())


@pytest.mark.slow
@pytest.mark.parametrize("length", [4_000, 4_001, 4_002, 4_003, 1_500_004])
def test_a_long_text_in_base85_is_read_as_python_reads_it(length: int) -> None:
    data = Random(1).randbytes(length // 2) + bytes(length // 4) + Random(2).randbytes(length // 4 + length % 4)  # noqa: S311
    for letters in (base64.b85encode(data), base64.a85encode(data, wrapcol=76)):
        read = base64.b85decode if b"\n" not in letters else base64.a85decode
        assert read(letters) in [found for _, found in decoded(letters, Effort(len(letters)))]
    # Five times u are more than four bytes hold.
    assert ">ascii85" not in {kind for kind, _ in decoded(b"uuuuu," * length, Effort(length))}


@pytest.mark.slow
def test_a_table_of_numbers_takes_no_more_memory_than_a_few_times_its_size() -> None:
    """All of its letters may be ascii85."""
    table = b"".join(b"%d,%d.5\n" % (number, number) for number in range(400_000))
    tracemalloc.start()
    try:
        assert list(pickle_streams(table, expected=False)) == []
        assert tracemalloc.get_traced_memory()[1] < 6 * len(table)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        b"callback:\n  _target_: os.system\n  command: x\n",
        b'{"callback": {"_target_": "os.system", "command": "x"}}',
        b'{"callback": {"\\u005ftarget_" : "os\\u002esystem"}}',
        b"{_target_: 'os.system'}",
        b"_target_: !!str os.system\n",
        b"_target_: >-\n  os.system\n",
        b"_target_: &a os.system\n",
        b"? _target_\n: os.system\n",
    ],
)
def test_what_hydra_instantiates_is_judged(make_bundle: Any, text: bytes) -> None:
    result = scan(make_bundle, text)
    assert [each.id for each in result.findings] == ["pickle-dangerous"]


def test_what_hydra_makes_of_known_classes_is_nothing(make_bundle: Any) -> None:
    result = scan(make_bundle, b"a:\n  _target_: collections.OrderedDict\nb:\n  name_target_: os\n  _target_: x\n")
    assert (result.findings, result.unchecked) == ((), ())


def test_objects_of_jsonpickle_that_are_keys_are_judged(make_bundle: Any) -> None:
    """With ``keys=True`` it decodes a key that begins with ``json://``."""
    inner = json.dumps({"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": ["x"]}]})
    for text in ({f"json://{inner}": 1}, {"json://" + json.dumps({f"json://{inner}": 1}): 1}):
        result = scan(make_bundle, json.dumps(text).encode())
        assert [each.id for each in result.findings] == ["pickle-dangerous"]


@pytest.mark.parametrize("beside", [".data/extern_modules", ".data/python_version"])
def test_modules_that_lie_in_a_package_of_torch_are_told(make_bundle: Any, beside: str) -> None:
    """torch.package's importer runs them in the place of the modules that its pickles seem to name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(
            "p/model/m.pkl", b"\x80\x04\x8c\x1asklearn.linear_model._base\x8c\x10LinearRegression\x93)\x81."
        )
        archive.writestr("p/sklearn/linear_model/_base.py", "class LinearRegression: pass\n")
        archive.writestr(f"p/{beside}", "")
    result = scan(make_bundle, packed.getvalue())
    assert [(each.id, "runs Python" in each.evidence) for each in result.findings] == [("pickle-unknown", True)]


def test_a_model_that_is_code_is_no_pickle(make_bundle: Any) -> None:
    flavor = {"loader_module": "mlflow.pyfunc.model", "python_model": "agent.py", "model_code_path": "agent.py"}
    flavor |= {"env": {"conda": "conda.yaml"}, "python_version": "3.11.7"}
    bundle = make_bundle(flavors={"python_function": flavor}, files={"agent.py": b"import mlflow\n"})
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle))
    assert (result.findings, result.unchecked) == ((), ())
