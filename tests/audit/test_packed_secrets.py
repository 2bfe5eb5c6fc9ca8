"""Secrets in files that are packed: written with the libraries that write such files, and found where they lie."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import joblib
import numpy
import pandas
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from kbuild.audit.checks import packed_secrets
from kbuild.audit.checks.secrets import SecretCheck
from kbuild.audit.subject import Subject
from kbuild.workflow.audit.tables import fits

# scikit-learn 1.4 asks a newer SciPy by its old names.
pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")
TOKEN = "ghp_" + "a1B2c3D4e5F6" * 3
PASSWORD = "correct-horse-" + "7battery"
TEXTS = ["customer", "another", TOKEN, "more of them"]


def look(make_bundle: Any, data: bytes, name: str = "artifacts/x", **options: Any) -> Any:
    bundle = make_bundle(files={name: data})
    result = SecretCheck(**{"fits": fits, **options}).run(Subject(reference="x", kind="model", bundle=bundle))
    assert TOKEN not in str(result) and PASSWORD not in str(result)
    return result


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    numpy.save(file, array)
    return file.getvalue()


def dumped(value: Any, compress: Any) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, compress=compress)
    return file.getvalue()


def zipped(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def table(values: Any, **options: Any) -> bytes:
    return bytes(pandas.DataFrame({"a": range(len(values)), "b": values}).to_parquet(**options))


@pytest.mark.parametrize(
    "data",
    [
        saved(numpy.array(TEXTS)),
        saved(numpy.array([each.encode() for each in TEXTS])),
        gzip.compress(saved(numpy.array(TEXTS))),
        pickle.dumps(numpy.array(TEXTS), 4),
        gzip.compress(pickle.dumps({"a": TEXTS})),
        bz2.compress(pickle.dumps({"a": TEXTS})),
        lzma.compress(pickle.dumps({"a": TEXTS})),
        zipped("a/x.txt", "\n".join(TEXTS).encode()),
        zipped("x.npy", saved(numpy.array(TEXTS))),
        tarred("x.pkl", gzip.compress(pickle.dumps(TEXTS))),
        dumped({"a": TEXTS}, ("zlib", 3)),
        dumped({"a": numpy.array(TEXTS)}, ("lzma", 3)),
        table(TEXTS * 50),
        table(TEXTS * 50, compression="gzip"),
        table(TEXTS * 50, compression="zstd", use_dictionary=False),
        table(TEXTS, compression="brotli", column_encoding={"b": "DELTA_BYTE_ARRAY"}, use_dictionary=False),
        table([TEXTS, [], None] * 9),
        table([{"c": each, "d": 1} for each in TEXTS]),
        table([each.encode() for each in TEXTS], compression="brotli"),
        table(pandas.Categorical(TEXTS * 9)),
        gzip.compress(table(TEXTS * 50)),
    ],
    ids=list(range(21)),
)
def test_tokens_in_what_is_packed_are_found(make_bundle: Any, data: bytes) -> None:
    result = look(make_bundle, data)
    assert [(each.id, each.where, "GitHub Token" in each.evidence) for each in result.findings] == [
        ("secret", "artifacts/x", True)
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_what_names_say_in_pickles_is_found(make_bundle: Any, protocol: int) -> None:
    class Client:
        pass

    held = {"a": 1, "db_password": PASSWORD}
    assert "db_password" in look(make_bundle, pickle.dumps(held, protocol)).findings[0].evidence
    assert "db_password" in look(make_bundle, gzip.compress(pickle.dumps([held], protocol))).findings[0].evidence


def test_the_place_is_told(make_bundle: Any) -> None:
    [found] = look(make_bundle, zipped("conf/.env", f"DB_PASSWORD={PASSWORD}\n".encode()), "artifacts/x.zip").findings
    assert "value of DB_PASSWORD (packed, at !conf/.env)" in found.evidence


@pytest.mark.parametrize(
    "make",
    [
        lambda: gzip.compress(pickle.dumps(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))),
        lambda: pickle.dumps(TfidfVectorizer().fit(["a word", "words of it"])),
        lambda: pickle.dumps({"eos_token": "endoftext", "token": "some words", "api_key": None, "password": "<none>"}),
        lambda: saved(numpy.random.default_rng(1).normal(size=10_000)),
        lambda: saved(numpy.arange(10_000)),
        lambda: table(["words", "of", "it"] * 100),
        lambda: table([]),
    ],
    ids=list(range(7)),
)
def test_what_holds_none_has_no_finding(make_bundle: Any, make: Callable[[], bytes]) -> None:
    result = look(make_bundle, make())
    assert (result.findings, result.unchecked) == ((), ())


def test_a_table_that_would_take_too_much_or_is_none_is_unchecked(
    make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_secrets, "_EXPANDED", 1 << 20)
    large = table(["x" * 1_000_000] * 20, compression="zstd")  # a few KB, 20 MB as texts
    assert len(large) < 1 << 14
    for data, options in ((large, {}), (b"PAR1" + bytes(99) + b"PAR1", {}), (table(TEXTS), {"fits": None})):
        assert [each.where for each in look(make_bundle, data, **options).unchecked] == ["artifacts/x"]
