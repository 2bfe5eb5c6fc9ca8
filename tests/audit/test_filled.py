"""Pickles that set items of an object: to set one calls the object's own method, and pandas' calls a key.

Each is loaded here too, and writes a file by names alone that models have.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pandas
import pytest
from devised import made, pairs
from disguised import call, named, whole
from scipy.optimize import OptimizeResult
from scipy.optimize._basinhopping import MinimizerWrapper
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.subject import Subject

# scikit-learn 1.4 asks a newer SciPy by its old names.
pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")
TEXT = b"import os\n"


def writer(target: Path, method: str) -> Any:
    """What writes a file, whatever it is called with."""
    array = numpy.frombuffer(TEXT, "u1").copy()
    fill = {"fill_value": array, "dtype": "u1", "shape": (len(array),)}
    steps: list[Any] = [FunctionTransformer(numpy.full_like, kw_args=fill), FunctionTransformer(bytes)]
    stack = StackingClassifier([("a", None)])
    vars(stack).update(stack_method_=[method], estimators_=[target], _n_features_out=1)
    final = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    pipeline = Pipeline([(str(each), each) for each in (*steps, stack, final)])
    return MinimizerWrapper(make_scorer(accuracy_score), pipeline, y_true=[1])


def filled(into: object, key: object, code: bytes) -> bytes:
    file = io.BytesIO()
    pickler: Any = pickle._Pickler(file, 4)  # type: ignore[attr-defined]  # which parts are written is told
    file.write(b"\x80\x04")
    pickler.save(into)
    file.write(b"(" if code.startswith(b"(") else b"")
    for each in (key, 1):
        pickler.save(each)
    file.write(code[-1:] + b".")
    return file.getvalue()


def scan(make_bundle: Any, data: bytes) -> Any:
    subject = Subject(reference="x", kind="model", bundle=make_bundle(files={"x.pkl": data}))
    return PickleCheck().run(subject)


@pytest.mark.slow
@pytest.mark.parametrize("code", [b"s", b"(u"], ids=["SETITEM", "SETITEMS"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: pandas.DataFrame({"z": [1]}),
        lambda: pandas.Series([1, 2]),
        lambda: collections.UserDict(pandas.DataFrame({"z": [1]})),
    ],
    ids=["frame", "series", "what holds a frame"],
)
def test_items_that_are_set_of_objects_are_told(
    make_bundle: Any, tmp_path: Path, make: Callable[[], Any], code: bytes
) -> None:
    into = make()
    if isinstance(into, collections.UserDict):
        into.data = pandas.DataFrame({"z": [1]})  # type: ignore[assignment]
    data = filled(into, writer(tmp_path / "mark", "write_bytes"), code)
    with pytest.raises(AttributeError, match="ndim"):
        pickle.loads(data)
    assert (tmp_path / "mark").read_bytes() == TEXT
    result = scan(make_bundle, data)
    assert any("sets items of an object of" in each.evidence for each in result.findings)
    assert any("has the method" in each.evidence for each in result.findings)
    harmless = scan(make_bundle, filled(into, "a", code))
    assert any("sets items of an object of" in each.evidence for each in harmless.findings)


@pytest.mark.parametrize("target", [b"cnumpy\nndarray\n", b"cpandas\nDataFrame\n(tR", b"cpandas\nIndex\n(]tR"])
@pytest.mark.parametrize("code", [b"NNs", b"(NNu", b"Na", b"(Ne", b"(N\x90"])
def test_every_opcode_that_fills_is_told(make_bundle: Any, target: bytes, code: bytes) -> None:
    found = scan(make_bundle, b"\x80\x04" + target + code + b".").findings
    assert any("sets items of" in each.evidence for each in found)


def test_a_container_is_none_after_it_has_a_state(make_bundle: Any) -> None:
    data = whole(made("sklearn.utils._bunch", "Bunch", pairs(a=b"N")) + b"NNs")
    assert any("sets items of" in each.evidence for each in scan(make_bundle, data).findings)


def test_a_logger_of_the_process_keeps_what_it_has(make_bundle: Any) -> None:
    state = pairs(disabled=b"\x88")
    [found] = scan(make_bundle, whole(call(named("logging", "getLogger"), "x") + state + b"b")).findings
    assert "gives a logger of the process a state" in found.evidence


def chain() -> Any:
    method = {"chain_method": "predict_proba"} if "chain_method" in signature(ClassifierChain).parameters else {}
    return ClassifierChain(LogisticRegression(), **method).fit([[0.0], [1.0]], [[0, 1], [1, 0]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: Bunch(a=1, b=[2]),
        lambda: OptimizeResult(x=numpy.ones(2), fun=1.0),
        lambda: collections.OrderedDict(a=1),
        lambda: collections.defaultdict(list, a=[1]),
        lambda: collections.Counter("abc"),
        lambda: collections.deque([1, 2, 3]),
        lambda: SimpleNamespace(a={1: 2}, b=[3]),
        lambda: pandas.MultiIndex.from_product([[1], [2, 3]], names=["a", "b"]).names,
        lambda: StackingClassifier([("a", LogisticRegression())]).fit([[0.0], [1.0]] * 9, [0, 1] * 9),
        chain,
    ],
    ids=list(range(10)),
)
def test_what_pickle_fills_itself_is_data(make_bundle: Any, make: Callable[[], Any]) -> None:
    for protocol in range(6):
        assert scan(make_bundle, pickle.dumps(make(), protocol)).findings == ()
