"""Pickles by names that models have, which only calls and computed names make dangerous."""

from __future__ import annotations

import datetime
import decimal
import importlib
import pickle
import typing
from pathlib import Path
from typing import Any

import numpy
import pytest
from devised import lazy, made, made_states, pairs, partial
from disguised import Code, body, call, named, whole, word
from scipy.spatial.transform import Rotation

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.libraries import Libraries
from kbuild.audit.pickled.standins import Global, made_by, odd_state
from kbuild.audit.subject import Subject


def scan(make_bundle: Any, files: dict[str, bytes]) -> Any:
    return PickleCheck().run(Subject(reference="x", kind="model", bundle=make_bundle(files=files)))


@pytest.mark.parametrize("state", [pytest.param(state, id=name) for name, state in made_states()])
def test_an_attribute_whose_name_only_a_call_tells_is_told(make_bundle: Any, state: bytes) -> None:
    data = whole(made("sklearn.frozen._frozen", "FrozenEstimator", state))
    found = scan(make_bundle, {"x.pkl": data}).findings
    assert any("another call makes" in each.evidence for each in found)


@pytest.mark.parametrize(
    "data",
    [
        call(named("sklearn.metrics._scorer", "_Scorer"), None, 1, {}, "unlink"),
        lazy(partial(named("sklearn.metrics._scorer", "_Scorer"), None, 1, {}, "unlink")),
        lazy(partial(named("builtins", "max")) + b"(" + named("sklearn.metrics._scorer", "_Scorer") + b"(NtNNtb"),
        b"(csklearn.metrics._scorer\n_Scorer\nNo",
        b"(Nisklearn.metrics._scorer\n_Scorer\n",
        call(
            named("copyreg", "_reconstructor"),
            Code(named("sklearn.metrics._scorer", "_Scorer")),
            Code(named("sklearn.metrics._scorer", "_Scorer")),
            None,
        ),
    ],
    ids=["called", "partial", "state of a partial", "OBJ", "INST", "base"],
)
def test_a_constructor_that_gets_arguments_is_told(make_bundle: Any, data: bytes) -> None:
    found = scan(make_bundle, {"x.pkl": whole(data)}).findings
    assert {each.id for each in found} == {"pickle-unknown"}
    assert any("the constructor of sklearn.metrics._scorer._Scorer" in each.evidence for each in found)


def test_what_connects_when_it_is_loaded_is_none_of_scikit_learns_data() -> None:
    source = b"class ScoringMonitor: ...\nclass Parallel: ...\n"
    libraries = Libraries()
    libraries._files["scikit-learn"] = lambda place: source
    for module in ("sklearn.callback._scoring_monitor", "sklearn.utils.parallel"):
        assert libraries.is_data(module, "ScoringMonitor") is False
    assert libraries.is_data("sklearn.utils._bunch", "Parallel") is True


@pytest.mark.parametrize("around", [(b"](", b"e"), (b"(", b"t")], ids=["list", "tuple"])
def test_pairs_for_a_state_are_told(make_bundle: Any, around: tuple[bytes, bytes]) -> None:
    own = word("__sklearn_tags__") + named("types", "SimpleNamespace") + b")\x81\x86"
    state = own.join(around)
    found = scan(make_bundle, {"x.pkl": whole(made("lightgbm.engine", "CVBooster", state))}).findings
    assert any("a __sklearn_tags__ of its own" in each.evidence for each in found)


@pytest.mark.parametrize("value", [decimal.Decimal(1), datetime.date(2026, 1, 1)])
def test_an_array_of_two_objects_is_no_state_of_pairs(make_bundle: Any, value: object) -> None:
    array = numpy.array([value, value], dtype=object)
    files = {f"{protocol}.pkl": pickle.dumps([array, {value: 1}], protocol) for protocol in (0, 2, 5)}
    assert scan(make_bundle, files).findings == ()


class Attributes(dict):  # type: ignore[type-arg]
    """Its items are its attributes, as those of statsmodels' Bunch are."""

    def __init__(self, **items: object) -> None:
        super().__init__(items)
        self.__dict__ = self


@pytest.mark.parametrize(
    "value", [Rotation.from_quat([[0.0, 0.0, 0.0, 1.0]]), Attributes(a=1)], ids=["rotation", "itself"]
)
def test_a_state_of_an_array_or_of_itself_is_one_of_data(make_bundle: Any, value: object) -> None:
    files = {f"{protocol}.pkl": pickle.dumps(value, protocol) for protocol in (0, 2, 5)}
    found = {each.evidence.partition(".pkl ")[2] for each in scan(make_bundle, files).findings}
    assert {each for each in found if not each.startswith("would import")} == set()


FULL = call(named("numpy", "ndarray"), (2,))


@pytest.mark.parametrize(
    "module, name",
    [
        ("numpy", "hypot"),
        ("numpy", "take"),
        ("numpy._core.fromnumeric", "sum"),
        ("builtins", "sorted"),
        ("_operator", "getitem"),
        ("operator", "mod"),
        ("math", "floor"),
        ("statistics", "mean"),
        ("pandas", "isna"),
        ("sklearn.metrics.pairwise", "paired_distances"),
    ],
)
def test_a_function_that_models_hold_is_no_data_where_it_is_called(make_bundle: Any, module: str, name: str) -> None:
    """It would call methods of what it is given: numpy's ``hypot`` of objects calls their ``hypot``."""
    held = whole(partial(named(module, name), 1))
    called = whole(call(named(module, name), Code(made("types", "SimpleNamespace", b"}")), 1))
    assert scan(make_bundle, {"a.pkl": held}).findings == ()
    found = scan(make_bundle, {"a.pkl": called}).findings
    assert [each.evidence for each in found] == [f"loading a.pkl calls {module}.{name}, which data only names"]


@pytest.mark.parametrize("value", [list[int], typing.Callable[[int], str], typing.Literal["a"]])
def test_types_are_made_by_a_call_of_such_a_function(make_bundle: Any, value: object) -> None:
    files = {f"{protocol}.pkl": pickle.dumps(value, protocol) for protocol in (2, 5)}
    assert scan(make_bundle, files).findings == ()


@pytest.mark.parametrize("text", ["0 + __import__('os').system('true')", ["x"]])
@pytest.mark.parametrize("key", ["model_spec", "design_info"])
def test_a_text_that_statsmodels_takes_for_a_formula_is_told(make_bundle: Any, key: str, text: object) -> None:
    for kind in (("types", "SimpleNamespace"), ("collections", "UserDict")):
        found = scan(make_bundle, {"x.pkl": whole(made(*kind, pairs(**{key: body(text)})))}).findings
        assert [each.evidence for each in found] == [f"loading x.pkl evaluates a formula: the {key} of its state"]


def test_what_torch_sets_beside_is_a_state_too(make_bundle: Any) -> None:
    state = pairs(__sklearn_tags__=named("types", "SimpleNamespace") + b")\x81")
    frozen = named("sklearn.frozen._frozen", "FrozenEstimator")
    tensor = named("torch._tensor", "_rebuild_from_type_v2")
    made_of = (Code(named("copyreg", "__newobj__")), Code(frozen), Code(b"(" + frozen + b"t"), Code(state))
    found = scan(make_bundle, {"x.pkl": whole(call(tensor, *made_of))}).findings
    assert any("a __sklearn_tags__ of its own" in each.evidence for each in found)


@pytest.mark.parametrize("name, told", [("BallTree", True), ("newObj", False)])
def test_a_compiled_class_gets_no_arguments_that_it_may_call(make_bundle: Any, name: str, told: bool) -> None:
    data = call(
        named("sklearn.neighbors._ball_tree", name), Code(FULL), 40, Code(made("types", "SimpleNamespace", b"}"))
    )
    found = scan(make_bundle, {"x.pkl": whole(data)}).findings
    assert bool(found) is told


@pytest.mark.parametrize("name, code", [("append", b"Na"), ("extend", b"(Ne"), ("add", b"(N\x90")])
def test_what_the_opcodes_of_lists_and_sets_would_call_is_told(make_bundle: Any, name: str, code: bytes) -> None:
    held = made("sklearn.linear_model._base", "LinearRegression", b"}")
    data = whole(made("collections", "UserDict", pairs(**{name: held})) + code)
    found = scan(make_bundle, {"x.pkl": data}).findings
    assert [each.evidence for each in found] == [
        f"loading x.pkl gives an object of collections.UserDict a {name} of its own",
        "loading x.pkl sets items of an object of collections.UserDict, which has a way of its own",
    ]


@pytest.mark.parametrize("code", [b"R", b"\x81"], ids=["REDUCE", "NEWOBJ"])
def test_arguments_that_a_call_makes_are_told(make_bundle: Any, code: bytes) -> None:
    made_of = call(named("builtins", "tuple"), [1, 2])
    data = whole(named("statsmodels.stats.tabledist", "TableDist") + made_of + code)
    found = scan(make_bundle, {"x.pkl": data}).findings
    assert "loading x.pkl has another call make arguments" in {each.evidence for each in found}


def test_a_pair_of_scipys_own_parts_is_a_state() -> None:
    """As scipy 1.18 pickles a BSpline: ``(self._delegate_to, empty(0))``. pickle takes names of a pair by ``items``."""
    module = "scipy.interpolate._bsplines"
    spline, inner, array = (
        made_by(Global(of, name))
        for of, name in ((module, "BSpline"), (module, "_BSpline"), ("numpy._core.multiarray", "_reconstruct"))
    )
    inner.state = {"k": 3, "t": array}
    assert odd_state(spline, (inner, array)) is None
    for state in ({"items": Global("numpy", "hypot")}, None, {1: 2}):
        inner.state = state
        assert odd_state(spline, (inner, array)) is not None
    other = made_by(Global("scipy.interpolate._interpolate", "PPoly"))
    other.state = {"k": 3}
    assert odd_state(spline, (other, array)) is not None


OWN = """
from pydantic import BaseModel

class Settings(BaseModel):
    rate: float
    inner: "Settings | None" = None
"""


def test_a_model_of_pydantic_is_data(make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state has its attributes in a ``__dict__`` of their own (pydantic/main.py, ``__getstate__``)."""
    (tmp_path / "own_settings.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("own_settings")
    value = module.Settings(rate=0.5, inner=module.Settings(rate=1.0))
    files = {f"{protocol}.pkl": pickle.dumps(value, protocol) for protocol in (4, 5)}
    assert pickle.loads(files["5.pkl"]) == value
    assert scan(make_bundle, {"code/own_settings.py": OWN.encode(), **files}).findings == ()


def test_what_a_dict_of_attributes_holds_is_looked_at_as_well(make_bundle: Any) -> None:
    of_names = pairs(__sklearn_tags__=named("types", "SimpleNamespace") + b")\x81")
    by_call = call(named("collections", "UserDict"))
    for inside in (pairs(__dict__=of_names), pairs(__dict__=by_call), pairs(__dict__=pairs(__dict__=b"}"))):
        held = made("sklearn.linear_model._base", "LinearRegression", inside)
        found = scan(make_bundle, {"x.pkl": whole(held)}).findings
        assert {each.id for each in found} == {"pickle-unknown"}
        assert all("of its own" in each.evidence for each in found)


@pytest.mark.parametrize(
    "state, told",
    [
        (call(named("collections", "UserDict")), "a state that another call makes"),
        (pairs(__dict__=call(named("collections", "UserDict"))), "a __dict__ of its own"),
    ],
)
def test_who_allows_a_class_allows_its_state(make_bundle: Any, state: bytes, told: str) -> None:
    """As geopandas has its arrays pickled: an array beside what makes the coordinate system."""
    data = whole(made("team.maps", "Places", state))
    subject = Subject(reference="x", kind="model", bundle=make_bundle(files={"x.pkl": data}))
    found = PickleCheck().run(subject).findings
    assert f"loading x.pkl gives an object of team.maps.Places {told}" in {each.evidence for each in found}
    assert all('{name: "team.maps.Places", reason: "…"}' in each.remedy for each in found)
    assert PickleCheck(allowed=("team.*",)).run(subject).findings == ()
    assert len(PickleCheck(allowed=("other.*",)).run(subject).findings) == 2
