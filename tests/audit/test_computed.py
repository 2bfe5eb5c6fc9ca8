"""Pickles by names that models have, which only calls and computed names make dangerous."""

from __future__ import annotations

import datetime
import decimal
import pickle
from typing import Any

import numpy
import pytest
from devised import lazy, made, made_states, partial
from disguised import Code, call, named, whole, word
from scipy.spatial.transform import Rotation

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.pickled.libraries import Libraries
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
    assert [each.id for each in found] == ["pickle-unknown"]
    assert "the constructor of sklearn.metrics._scorer._Scorer" in found[0].evidence


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
