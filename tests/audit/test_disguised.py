"""All of the corpus of disguised pickles is found, and nothing in what models are made of."""

from __future__ import annotations

import base64
import bz2
import collections
import datetime
import decimal
import functools
import gzip
import io
import json
import operator
import os
import pathlib
import pickle
import random
import re
import struct
import tarfile
import uuid
import zipfile
import zlib
import zoneinfo
from collections.abc import Callable
from typing import Any

import joblib
import numpy
import pandas
import pytest
from disguised import disguised
from scipy import interpolate, sparse
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.libraries import Libraries
from kbuild.audit.subject import Subject


def scan(make_bundle: Any, files: dict[str, bytes], **options: Any) -> Any:
    return PickleCheck(**options).run(Subject(reference="x", kind="model", bundle=make_bundle(files=files)))


@pytest.mark.slow
def test_every_disguised_pickle_is_found_by_its_content(make_bundle: Any) -> None:
    cases = list(disguised("/nowhere/mark"))
    assert len(cases) >= 150
    # Names that tell nothing, so that content alone decides.
    result = scan(make_bundle, {f"artifacts/{number}": case.data for number, case in enumerate(cases)})
    found = {each.where for each in result.findings if each.severity in ("medium", "critical")}
    assert [case.name for number, case in enumerate(cases) if f"artifacts/{number}" not in found] == []


X = numpy.random.default_rng(0).normal(size=(60, 4))
Y = (X[:, 0] > 0).astype(int)
FRAME = pandas.DataFrame(
    {
        "a": [1, 2],
        "b": ["x", "y"],
        "c": pandas.Categorical(["u", "v"]),
        "d": pandas.date_range("2026", periods=2, tz="Europe/Berlin"),
        "e": pandas.array([1, None], dtype="Int64"),
        "f": pandas.period_range("2026", periods=2, freq="M"),
        "g": pandas.to_timedelta([1, 2]),
    },
    index=pandas.MultiIndex.from_product([[1], [2, 3]]),
)
FITTED: list[Callable[[], Any]] = [
    lambda: LogisticRegression().fit(X, Y),
    lambda: SGDClassifier().fit(X, Y),
    lambda: RandomForestClassifier(3).fit(X, Y),
    lambda: GradientBoostingClassifier(n_estimators=3).fit(X, Y),
    lambda: HistGradientBoostingClassifier(max_iter=3).fit(X, Y),
    lambda: KNeighborsClassifier().fit(X, Y),
    lambda: SVC().fit(X, Y),
    lambda: GaussianProcessClassifier().fit(X, Y),
    lambda: MLPClassifier(max_iter=1000, tol=1).fit(X, Y),
    lambda: KMeans(2, n_init=1).fit(X),
    lambda: SelectKBest(k=2).fit(X, Y),
    lambda: make_pipeline(FunctionTransformer(numpy.log1p), StandardScaler()).fit(numpy.abs(X)),
    lambda: ColumnTransformer([("one", OneHotEncoder(), ["b"])]).fit(FRAME),
    lambda: GridSearchCV(RandomForestClassifier(2), {"max_depth": [1, 2]}, cv=2).fit(X, Y),
    lambda: FRAME,
    lambda: [pandas.Series([1]), pandas.Timestamp("2026", tz="UTC"), pandas.offsets.BusinessDay(2)],
    lambda: [sparse.csr_matrix(numpy.eye(3)), sparse.coo_array(numpy.eye(3))],
    lambda: [interpolate.CubicSpline([0, 1, 2], [0, 1, 4])],
    lambda: [numpy.random.default_rng(1), numpy.random.RandomState(1), numpy.ma.array([1]), numpy.poly1d([1, 2])],
    lambda: [numpy.log1p, numpy.float32(1), numpy.rec.array([(1, 2.0)]), numpy.dtype("f4")],
    lambda: [
        datetime.datetime.now(datetime.UTC),
        zoneinfo.ZoneInfo("UTC"),
        uuid.uuid4(),
        decimal.Decimal(1),
        re.compile("x"),
        pathlib.Path("x"),
        collections.defaultdict(list),
        functools.partial(max, 1),
        operator.itemgetter(1),
        ValueError("x"),
        slice(1, 2),
        frozenset([2]),
        type(None),
    ],
]


def joblib_bytes(value: Any, compress: int) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, compress=compress)
    return file.getvalue()


# scikit-learn 1.4 beside the newest scipy.
@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")
@pytest.mark.parametrize("number", range(len(FITTED)))
def test_nothing_is_found_in_what_models_are_made_of(make_bundle: Any, number: int) -> None:
    value = FITTED[number]()
    files = {f"{protocol}.pkl": pickle.dumps(value, protocol) for protocol in (3, 4, 5)}
    files |= {f"{level}.joblib": joblib_bytes(value, level) for level in (0, 3)}
    result = scan(make_bundle, files)
    assert (result.findings, result.unchecked, result.looked_at) == ((), (), 5)


def test_a_class_of_the_models_own_code_is_no_surprise_and_one_of_anothers_name_is(make_bundle: Any) -> None:
    stated = b"\x80\x04\x8c\x05churn\x8c\x05Model\x93)R."
    shadow = b"\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93)R."
    code = {"code/churn/__init__.py": b"class Model: ...\n", "code/subprocess.py": b"class Popen: ...\n"}
    assert [each.id for each in scan(make_bundle, {"python_model.pkl": stated}).findings] == ["pickle-unknown"]
    assert scan(make_bundle, {**code, "python_model.pkl": stated}).findings == ()
    assert [each.id for each in scan(make_bundle, {**code, "x.pkl": shadow}).findings] == ["pickle-dangerous"]


def test_what_opens_files_in_torch_is_none_of_its_data() -> None:
    source = b"class _open_file:\n    pass\nclass _open_zipfile_writer_file: ...\n"
    libraries = Libraries()
    libraries._files["torch"] = lambda place: source
    for module in ("torch.serialization", "torch.utils.x", "torch._utils"):
        assert libraries.is_data(module, "_open_file") is False
    assert libraries.is_data("torch.nn.modules.x", "_open_file") is True
    assert libraries.is_data("torch.nn.functional", "relu") is True


@pytest.mark.parametrize("key", ["restore_model_spec", "restore_design_info", None])
def test_a_state_that_statsmodels_evaluates_is_told(make_bundle: Any, key: str | None) -> None:
    state = b"N" if key is None else b"}X" + len(key).to_bytes(4, "little") + key.encode() + b"Ns"
    data = b"\x80\x02cstatsmodels.base.data\nPandasData\n)\x81" + state + b"b."
    found = scan(make_bundle, {"x.pkl": data}, allowed=("statsmodels.base.data.*",)).findings
    assert any("evaluates a formula" in each.evidence for each in found)


@pytest.mark.parametrize("allowed", [("churn.Model",), ("churn.*",)])
def test_the_policy_adds_names(make_bundle: Any, allowed: tuple[str, ...]) -> None:
    stated = b"\x80\x04\x8c\x05churn\x8c\x05Model\x93)R."
    assert scan(make_bundle, {"python_model.pkl": stated}, allowed=allowed).findings == ()
    evil = pickle.dumps(eval)
    assert scan(make_bundle, {"python_model.pkl": evil}, allowed=allowed).findings


@pytest.mark.parametrize(
    "first", [gzip.compress(b"x", mtime=0), zlib.compress(b"x"), bytes(tarfile.TarInfo("a").tobuf()) + bytes(1024)]
)
def test_what_is_packed_behind_something_packed_is_found(make_bundle: Any, first: bytes) -> None:
    evil = b"cposix\nsystem\n(S'true'\ntR."
    for then in (gzip.compress(evil), bz2.compress(evil)):
        for between in (b"", b"\0\0"):
            assert scan(make_bundle, {"artifacts/x": first + between + then}).findings


def test_what_cannot_be_opened_is_unchecked(make_bundle: Any) -> None:
    for data in (b"7z\xbc\xaf\x27\x1c" + bytes(40), b"Rar!\x1a\x07\x01\x00" + bytes(40)):
        [unchecked] = scan(make_bundle, {"artifacts/x": data}).unchecked
        assert unchecked.where == "artifacts/x" and "not opened" in unchecked.reason


@pytest.mark.parametrize(
    "sign",
    [b"\x1f\x8b\x08\x00", b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"],
    ids=["gzip", "bz2", "xz", "zstd", "lz4"],
)
def test_noise_that_holds_the_sign_of_a_format_is_no_defect(make_bundle: Any, sign: bytes) -> None:
    noise = random.Random(7).randbytes(5_000)  # noqa: S311
    # lz4's library raises a RuntimeError where others have an error of their own: 160 MB of noise met it.
    result = scan(make_bundle, {"artifacts/first": sign + noise, "artifacts/later": noise + sign + noise})
    assert result.findings == ()
    assert {each.where for each in result.unchecked} <= {"artifacts/first"}


def test_a_layer_of_code_in_keras_own_formats_is_critical(make_bundle: Any) -> None:
    config = b'\x89HDF\r\n\x1a\n{"class_name": "Lambda", "config": {"function": ["4wEAAAAA"]}}'
    [finding] = scan(make_bundle, {"model.h5": config}).findings
    assert (finding.id, finding.severity) == ("model-code", "critical")


@pytest.mark.parametrize(
    "config",
    [
        b'{"class_name" : "Lambda", "config": {"function": "4wEAAAAA"}}',
        b'{"class_name": "L\\u0061mbda", "config": {}}',
        b'{"class_n\\u0061me": "Lam\\u0062d\\u0061", "config": {}}',
        b'{"activation": {"class_name": "__lambda__", "config": {"value": "4wEAAAAA"}}}',
    ],
)
def test_a_layer_of_code_in_a_packed_keras_model_is_critical(make_bundle: Any, config: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
    assert [each.id for each in scan(make_bundle, {"model.keras": file.getvalue()}).findings] == ["model-code"]


@pytest.mark.slow
def test_a_decoy_hides_no_layer_of_code(make_bundle: Any) -> None:
    config = json.dumps({"class_name": "Lambda"})
    damaged, padded = io.BytesIO(), io.BytesIO(b"before")
    with zipfile.ZipFile(damaged, "w") as archive:
        archive.writestr("a.json", "0123456789")
        archive.writestr("config.json", config, zipfile.ZIP_DEFLATED)
    data = bytearray(damaged.getvalue())
    data[data.index(b"0123456789")] ^= 1
    result = scan(make_bundle, {"model.keras": bytes(data)})
    assert [each.id for each in result.findings] == ["model-code"]
    assert result.unchecked == ()  # no checksum counts
    padded.seek(0, io.SEEK_END)
    with zipfile.ZipFile(padded, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", " " * (1 << 20) + config)
    assert [each.id for each in scan(make_bundle, {"model.keras": padded.getvalue()}).findings] == ["model-code"]
    for encoding in ("utf-16", "utf-16-be", "utf-32-le", "utf-8-sig"):  # as json.loads tells them
        result = scan(make_bundle, {f"{encoding}.json": gzip.compress(config.encode(encoding))})
        assert f"{encoding}.json" in {each.where for each in result.findings if each.id == "model-code"}


def test_a_damaged_or_lying_member_hides_none_after_it(make_bundle: Any) -> None:
    """zipfile finds members by the directory at the end, whatever lies between."""
    evil = pickle.dumps(os.system)
    for flags, packed in ((8, 0), (0, 40)):
        decoy = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, flags, 8, 0, 0, 0, packed, 0, 1, 0) + b"a"
        whole = zlib.compressobj(9, zlib.DEFLATED, -15)
        inner = {8: b"\xff" * 12, 0: whole.compress(b"x") + whole.flush()}[flags]
        file = io.BytesIO(decoy + inner)
        file.seek(0, io.SEEK_END)
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("b", evil)
        assert scan(make_bundle, {"artifacts/x.zip": file.getvalue()}).findings, flags


def test_an_encrypted_or_strangely_packed_member_is_unchecked_whatever_its_name(make_bundle: Any) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights", bytes(range(256)))
    data = file.getvalue()
    for at, value in ((6, b"\x01\0"), (8, b"\x09\0")):
        changed = data[:at] + value + data[at + 2 :]
        (unchecked,) = scan(make_bundle, {"artifacts/weights": changed}).unchecked
        assert unchecked.where.startswith("artifacts/weights")


def test_classes_that_open_files_by_their_arguments_are_told(make_bundle: Any) -> None:
    source = b"class Booster: ...\nclass DMatrix: ...\n"
    libraries = Libraries()
    libraries._files["xgboost"] = libraries._files["lightgbm"] = lambda place: source
    for module in ("xgboost.core", "lightgbm.basic"):
        assert libraries.is_data(module, "Booster") is True and libraries.is_data(module, "DMatrix") is False
    data = b"\x80\x02cxgboost.core\nBooster\n(NN\x58\x01\0\0\0xtR."
    found = scan(make_bundle, {"x.pkl": data}, allowed=("xgboost.*",)).findings
    assert ["open a file" in each.evidence for each in found] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"(" * 1_000_000,
        b"c" * 500_000,
        b"e1" * 1_000_000,
        b"PK\x03\x04" * 20_000,
        b"\x80\x04" * 30_000,
        b"xx" + b"\x1f\x8b\x08\x00" * 2**18,
        gzip.compress(b"a") * 100_000,
        struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 8, 0, 0, 0, 0, 0, 0, 0, 0) * 3_000,
    ],
    ids=["marks", "names", "base64", "zip", "headers", "gzip", "members", "stored"],
)
def test_files_made_to_take_long_come_to_an_end(make_bundle: Any, data: bytes) -> None:
    scan(make_bundle, {"artifacts/x": data})


JUNK = b"\x00\x01 not a pickle \xff\xfe"


@pytest.mark.parametrize(
    "data",
    [
        b"(S'true'\nios\nsystem\n.",
        b"I1\n0(S'true'\nios\nsystem\n.",
        JUNK + b"(S'true'\nios\nsystem\n.",
        JUNK + b"(I7\nS'(true'\nibuiltins\ngetattr\n.",
        JUNK + b"cos\nsystem\n(S'true'\ntR",
        JUNK + b"cos\nsystem\n(S'true'\ntRg9\n.",
        JUNK + b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R" + bytes(50),
        JUNK + b"(S'true'\nios\nsystem\n\xff\xff",
    ],
)
def test_what_calls_before_its_end_is_found_though_it_has_none(make_bundle: Any, data: bytes) -> None:
    for name in ("artifacts/x", "artifacts/x.pkl"):
        found = scan(make_bundle, {name: data}).findings
        assert {each.severity for each in found} & {"critical", "medium"}, data


@pytest.mark.slow
def test_noise_and_text_are_no_pickles_without_an_end(make_bundle: Any) -> None:
    source = random.Random(7)  # noqa: S311
    files = {f"artifacts/{n}.bin": source.randbytes(200_000) for n in range(3)}
    files["artifacts/words"] = b"".join(
        b"%s\n" % bytes(word) for word in (b"cat", b"ios", b"csv", b"re", b"(tR") * 2000
    )
    result = scan(make_bundle, files)
    assert (result.findings, result.unchecked) == ((), ())


def test_what_torch_rebuilds_by_type_is_judged_as_the_call_that_it_makes(make_bundle: Any) -> None:
    rebuild = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n("
    tensor = rebuild + b"ctorch._utils\n_rebuild_parameter\nctorch.nn.parameter\nParameter\n(tN"
    assert [
        each.evidence for each in scan(make_bundle, {"x.pkl": tensor + b"tR."}).findings if "Parameter" not in str(each)
    ] == []
    evil = rebuild + b"cos\nsystem\nctorch\nTensor\n(X\x04\0\0\0true" + b"tNtR."
    assert [each.id for each in scan(make_bundle, {"x.pkl": evil}).findings][:1] == ["pickle-dangerous"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: b"x: " + base64.b64encode(base64.b64encode(data)),
        lambda data: b'{"a": "%s"}' % base64.b64encode(b"}q\0(" + data),
        lambda data: b"x: " + zlib.compress(data, wbits=11).hex().encode(),
        lambda data: b"x: " + base64.b64encode(zlib.compress(data, wbits=12)),
        lambda data: pickle.dumps("\u20ac" + data.decode()),
        lambda data: pickle.dumps(b"]NaK\0Ns0" + data),
        lambda data: b"\x80\x04}K\x01" + data[:-1] + b"s.",
        lambda data: b"\x80\x04(" + data[:-1] + b"\x91.",
    ],
)
def test_it_is_found_in_texts_and_whatever_else_it_is_put_into(
    make_bundle: Any, wrap: Callable[[bytes], bytes]
) -> None:
    assert scan(make_bundle, {"artifacts/x": wrap(b"cposix\nsystem\n(S'true'\ntR.")}).findings


def loads(*pushed: bytes) -> bytes:
    return b"\x80\x04\x8c\x0dtorch.storage\x8c\x10_load_from_bytes\x93" + b"".join(pushed) + b"\x85R."


def short(data: bytes) -> bytes:
    return b"C" + bytes([len(data)]) + data


def test_what_a_torch_storage_loads_is_judged_as_a_file(make_bundle: Any) -> None:
    """As ``pickle`` writes tensors; what is broken has done its harm before that is seen."""
    evil = b"cposix\nsystem\n(S'true'\ntR"
    for inner, found in (
        (pickle.dumps({"a": 1}), set()),
        (evil + b".", {"pickle-dangerous"}),
        (evil, {"pickle-dangerous"}),
    ):
        assert {each.id for each in scan(make_bundle, {"m.pkl": loads(short(inner))}).findings} == found
    computed = loads(b"\x8c\x07_codecs\x8c\x06encode\x93\x8c\x01x\x85R")
    assert {each.id for each in scan(make_bundle, {"m.pkl": computed}).findings} == {"pickle-unknown"}


def test_archives_of_torch_hold_other_members_than_pickles(make_bundle: Any) -> None:
    """As torch.save and torch.jit.save write them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        script = (
            b"\x80\x02c__torch__.torch.nn.modules.linear\nLinear\n)\x81}ctorch.jit._pickle\nbuild_intlist\n]\x85Rb."
        )
        archive.writestr("m/data.pkl", script)
        for name in ("byteorder", "version", ".format_version", ".storage_alignment", "data/0", "code/a.py.debug_pkl"):
            archive.writestr(f"m/{name}", b"64" if "." in name else b"little\n\x80\x02")
    result = scan(make_bundle, {"m.pt": file.getvalue()})
    assert (result.findings, result.unchecked) == ((), ())
    code = {"code/__torch__/__init__.py": b"import os\n", "m.pkl": b"\x80\x02c__torch__\nLinear\n)\x81."}
    assert scan(make_bundle, code).findings, "a package of the model's own of that name is Python"
    oldest = b"\x80\x02(X\x06\0\0\0modulecos\n%s\nX\x01\0\0\0aX\x01\0\0\0btQ)\x81."
    assert "pickle-dangerous" in {each.id for each in scan(make_bundle, {"m.pt": oldest % b"system"}).findings}


def test_libraries_are_known_by_any_distribution_that_brings_them(tmp_path: Any) -> None:
    wheel = tmp_path / "xgboost_cpu-3.2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("xgboost/sklearn.py", "class XGBClassifier: ...\n")
    libraries = Libraries(wheels={"xgboost-cpu": wheel}.get)
    assert libraries.is_data("xgboost.sklearn", "XGBClassifier") is True


def test_nested_classes_and_named_tuples_of_the_models_own_code_are_its_data(make_bundle: Any) -> None:
    code = (
        b"import os\nfrom collections import namedtuple\nclass Outer:\n    class Inner: ...\n    run = os.system\n"
        b"Point = namedtuple('Point', 'x y')\nsystem = os.system\n"
    )
    for name, known in {
        "Outer.Inner": True,
        "Point": True,
        "Outer.run": False,
        "system": False,
        "os.system": False,
    }.items():
        stated = b"\x80\x04\x8c\x05churn\x8c" + bytes([len(name)]) + name.encode() + b"\x93)R."
        found = scan(make_bundle, {"code/churn/__init__.py": code, "m.pkl": stated}).findings
        assert (found == ()) is known, (name, found)


def tensors(data: bytes, header: int = 0) -> bytes:
    """A safetensors file whose only tensor is these bytes, its header filled up with blanks to a size."""
    text = json.dumps({"x": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    text = text.ljust(header)
    return struct.pack("<Q", len(text)) + text + data


def test_tensors_that_are_an_archive_too_are_opened(make_bundle: Any) -> None:
    """pandas and joblib go by what they find in a file, or by its name."""
    evil = b"cos\nsystem\n(S'true'\ntR."
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.pkl", evil)
    assert zipfile.is_zipfile(io.BytesIO(tensors(packed.getvalue())))
    (found,) = scan(make_bundle, {"artifacts/x.zip": tensors(packed.getvalue())}).findings
    assert "os.system" in found.evidence and found.severity == "critical"
    clean = scan(make_bundle, {"artifacts/x.zip": tensors(bytes(range(256)) * 100)})
    assert clean.findings == () and clean.unchecked == ()


@pytest.mark.parametrize(
    "name",
    [
        "mlflow.utils.process._exec_cmd", "pandas.read_pickle", "pandas.io.pickle.read_pickle", "joblib.load",
        "joblib.numpy_pickle.load", "yaml.unsafe_load", "uvicorn.importer.import_from_string", "torch.load",
        "keras.src.utils.file_utils.get_file", "keras.src.utils.python_utils.func_load",
        "setuptools._distutils.spawn.spawn", "kbuild.process.runner.run", "IPython.utils.process.system",
    ],
)  # fmt: skip
def test_what_runs_or_opens_what_it_is_told_is_critical_in_whatever_package(name: str, make_bundle: Any) -> None:
    module, _, function = name.rpartition(".")
    data = f"c{module}\n{function}\n(S'/x'\ntR.".encode()
    (found,) = scan(make_bundle, {"artifacts/x.pkl": data}).findings
    assert (found.id, found.severity) == ("pickle-dangerous", "critical") and name in found.evidence


def test_a_nested_pickle_without_its_end_is_found_too(make_bundle: Any) -> None:
    """It is loaded until its end is missed, and has called by then."""
    evil = pickle.dumps(Nested())[:-1]
    for data in (json.dumps({"a": base64.b64encode(evil).decode()}).encode(), pickle.dumps({"a": evil})):
        (found,) = scan(make_bundle, {"artifacts/x.json": data}).findings
        assert "system" in found.evidence, data[:40]


class Nested:
    def __reduce__(self) -> Any:
        return os.system, ("true " * 8,)


def test_a_module_that_is_called_like_a_dangerous_one_is_another(make_bundle: Any) -> None:
    """kedro-mlflow's models hold the datasets of their catalog."""
    data = b"ckedro_datasets.pickle.pickle_dataset\nPickleDataset\n(tR."
    assert {each.severity for each in scan(make_bundle, {"artifacts/x.pkl": data}).findings} <= {"medium"}
