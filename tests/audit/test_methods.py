"""Methods that models hold: pickle writes those of built-in types, and bound ones, as calls of getattr; and other clean
files that were called bad, or bad ones twice."""

from __future__ import annotations

import decimal
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy
import pandas
import pyarrow
import pytest
from disguised import Code, archive, call, named, whole
from mlflow.models.signature import _TypeHints
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.libraries import Libraries
from kbuild.audit.subject import Subject

GETATTR = named("builtins", "getattr")
SOURCE = "class Model:\n    def __init__(self):\n        self.ask = self.answer\n    def answer(self):\n        pass\n"


def check(make_bundle: Any, data: bytes, **files: bytes) -> list[tuple[str, str]]:
    bundle = make_bundle(files={"x.pkl": data, **{f"code/{name}.py": text for name, text in files.items()}})
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle))
    assert result.unchecked == ()
    return sorted({(each.id, each.severity) for each in result.findings})


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "held",
    [
        TfidfVectorizer(tokenizer=str.split, token_pattern=None),
        CountVectorizer(preprocessor=str.lower),
        [str.upper, bytes.strip, dict.fromkeys, str.isdigit],
        {"search": re.compile("a").search, "iter": re.compile(b"b", re.DOTALL).finditer},
    ],
    ids=["tokenizer", "preprocessor", "types", "patterns"],
)
def test_methods_of_built_in_types_and_patterns_are_data(make_bundle: Any, held: Any, protocol: int) -> None:
    data = pickle.dumps(held, protocol)
    assert b"getattr" in data
    assert check(make_bundle, data) == []


@pytest.mark.parametrize("compress", [0, ("zlib", 3)])
def test_a_method_beside_arrays_of_joblib_is_data(make_bundle: Any, tmp_path: Path, compress: Any) -> None:
    """The arrays' bytes are read as code as well, which has no end."""
    joblib.dump([str.split, numpy.arange(3000.0), str.lower], tmp_path / "x", compress=compress)
    assert check(make_bundle, (tmp_path / "x").read_bytes()) == []


def test_a_bound_method_of_the_models_own_class_is_its_own_code(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "churning.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import churning  # type: ignore[import-not-found]

    monkeypatch.delitem(sys.modules, "churning")
    monkeypatch.setitem(sys.modules, "churning", churning)
    data = pickle.dumps(churning.Model())
    assert b"getattr" in data
    assert check(make_bundle, data) == [("pickle-unknown", "medium")]
    assert check(make_bundle, data, churning=SOURCE.encode()) == []


FITTER = """
from functools import partial

class Fitter:
    def __init__(self):
        self._penalise = partial(self._add_penalty, self._likelihood, l1=0.5)

    def _add_penalty(self, *given, **named):
        pass

    def _likelihood(self):
        pass
"""


def test_who_allows_a_library_allows_the_methods_that_its_objects_hold(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lifelines' fitters hold theirs. Loading calls none of them, and to call such a class is unknown, too."""
    (tmp_path / "fitting.py").write_text(FITTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    import fitting  # type: ignore[import-not-found]

    monkeypatch.delitem(sys.modules, "fitting")
    monkeypatch.setitem(sys.modules, "fitting", fitting)
    data = pickle.dumps(fitting.Fitter())
    assert check(make_bundle, data) == [("pickle-unknown", "medium")]
    subject = Subject(reference="x", kind="model", bundle=make_bundle(files={"x.pkl": data}))
    told = {each.evidence: each.remedy for each in PickleCheck().run(subject).findings}
    assert '"fitting.Fitter"' in told["loading x.pkl holds the method _add_penalty of fitting.Fitter"]
    assert PickleCheck(allowed=("fitting.*",)).run(subject).findings == ()
    special = call(GETATTR, Code(named("fitting", "Fitter") + b")\x81"), "__reduce_ex__")
    assert ("pickle-dangerous", "critical") in check(make_bundle, whole(special))
    held = call(call(GETATTR, Code(named("fitting", "Fitter") + b")\x81"), "_likelihood"))
    assert "calls what another call returned" in str(
        PickleCheck(allowed=("fitting.*",))
        .run(Subject(reference="x", kind="model", bundle=make_bundle(files={"x.pkl": whole(held)})))
        .findings
    )


def test_the_answer_of_a_librarys_model_is_unknown_and_other_methods_are_dangerous(make_bundle: Any) -> None:
    assert check(make_bundle, pickle.dumps(LinearRegression().predict)) == [("pickle-unknown", "medium")]
    for bound in (LinearRegression().set_params, Path("x").write_bytes):
        assert ("pickle-dangerous", "critical") in check(make_bundle, pickle.dumps(bound))


def test_code_that_a_pickle_brings_is_told_once_whatever_it_takes(make_bundle: Any) -> None:
    namespace = {"__name__": "__main__"}
    exec("import typing\nclass Both(typing.NamedTuple):\n    x: int\n", namespace)  # noqa: S102
    data = cloudpickle.dumps(namespace["Both"])
    assert ("pickle-dangerous", "critical") not in check(make_bundle, data)
    assert ("pickle-code", "medium") in check(make_bundle, data)


@pytest.mark.parametrize("brought", ["numba.cloudpickle.cloudpickle", "joblib.externals.cloudpickle.cloudpickle"])
def test_code_by_a_cloudpickle_that_a_library_brings_is_code_too(make_bundle: Any, brought: str) -> None:
    """numba has its functions pickled by one of its own: those of umap and shap are in their models."""
    data = cloudpickle.dumps(lambda x: x + 1, protocol=2)
    assert pickle.loads(data)(1) == 2 and b"ccloudpickle.cloudpickle\n" in data
    found = check(make_bundle, data.replace(b"ccloudpickle.cloudpickle\n", f"c{brought}\n".encode()))
    assert found == check(make_bundle, data) == [("pickle-code", "medium")]
    other = data.replace(b"ccloudpickle.cloudpickle\n", b"cother.cloudpickle.cloudpickle\n")
    assert ("pickle-unknown", "medium") in check(make_bundle, other)


@pytest.mark.parametrize(
    "held",
    [
        pyarrow.table({"a": [1], "kind": pyarrow.array(["x"]).dictionary_encode(), "in": [[1]]}),
        pandas.Series([decimal.Decimal("1.2")], dtype=pandas.ArrowDtype(pyarrow.decimal128(5, 2))),
        [
            pyarrow.map_(pyarrow.string(), pyarrow.list_(pyarrow.int64())),
            pyarrow.time64("us"),
            pyarrow.large_list(pyarrow.int8()),
        ],
        _TypeHints(list[str], list[int]),
    ],
    ids=["table", "decimals", "types", "what MLflow notes of a PythonModel"],
)
def test_what_tables_and_mlflows_own_models_are_made_of_is_data(make_bundle: Any, held: Any) -> None:
    assert check(make_bundle, pickle.dumps(held)) == []


def test_a_generator_of_torch_is_made_with_its_device() -> None:
    libraries = Libraries()
    libraries._files["torch"] = lambda place: b"" if place == "torch/_C" else None
    assert libraries.is_data("torch._C", "Generator")
    assert not libraries.has_state_only("torch._C", "Generator")
    assert libraries.has_state_only("torch._C", "PyTorchFileReader")
    assert not libraries.is_data("torch._C", "PyTorchFileReader")


STR = Code(named("builtins", "str"))
PATTERN = Code(call(named("re", "_compile"), "a", 0))


@pytest.mark.parametrize(
    "data, critical",
    [
        (call(call(GETATTR, STR, "split"), "a b"), False),
        (call(call(GETATTR, PATTERN, "search"), "a"), False),
        (call(GETATTR, STR, "format"), True),
        (call(GETATTR, PATTERN, "sub"), True),
        (call(GETATTR, PATTERN, "__class__"), True),
        (call(GETATTR, STR, "__subclasses__"), True),
        (call(GETATTR, Code(named("statistics", "mean")), "__globals__"), True),
        # One that is as it has to be says nothing of the others.
        (call(GETATTR, STR, "split") + b"0" + call(GETATTR, Code(named("statistics", "mean")), "__globals__"), True),
        (call(GETATTR, STR, "split", "x"), False),
    ],
)
def test_what_is_called_or_leads_elsewhere_is_a_finding(make_bundle: Any, data: bytes, critical: bool) -> None:
    found = check(make_bundle, whole(data))
    assert (("pickle-dangerous", "critical") in found) is critical
    assert critical or data.count(b"R") == 1 or ("pickle-unknown", "medium") in found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_an_archive_holds_is_told_once_and_what_lies_beside_it_too(make_bundle: Any, method: int) -> None:
    def evidence(data: bytes) -> list[str]:
        bundle = make_bundle(files={"x.pt": data})
        found = PickleCheck().run(Subject(reference="x", kind="model", bundle=bundle)).findings
        return [each.evidence.rpartition(" ")[2] for each in found]

    data = archive(whole(call(named("os", "system"), "inside")), method=method)
    assert evidence(data) == ["os.system"]
    assert evidence(data + whole(call(named("posix", "rmdir"), "x"))) == ["os.system", "posix.rmdir"]
