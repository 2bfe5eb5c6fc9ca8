import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.answers import DEFAULT, EXACT, Tolerance, compare, compare_texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)


@given(JSON)
def test_an_answer_is_the_same_as_itself(value: Any) -> None:
    assert compare(value, json.loads(json.dumps(value))).same
    assert compare(value, value, EXACT).same
    assert not compare(value, [value]).same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1.0, 1.0 + 1e-9, True),
        (1.0, 1.001, False),
        # spaceflights, trained with one OpenBLAS kernel and served with another
        (1799.366361257952, 1799.3663612579521, True),
        (1, 1.0, False),
        (True, 1, False),
        (1, 2, False),
        (2**70, 2**70 + 1, False),
        (10**400, 10**400 + 1, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (float("nan"), None, False),
        (float("inf"), float("inf"), True),
        (float("inf"), float("-inf"), False),
        (float("inf"), 1.7e308, False),
        # labels and counts written as floats
        (100000.0, 100001.0, False),
        (1000000.0, 1000005.0, False),
        (0.0, -0.0, True),
        (0.0, 1e-12, True),
        (0.0, 1e-7, False),
        (1.7e308, -1.7e308, False),
        (None, 0, False),
        ("a", "b", False),
        ("1.0", "1.0000000001", False),
        ([1, 2], [1], False),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1, "b": 2.0}, {"b": 2.0, "a": 1}, True),
        ({"a": [1.0, {"b": None}]}, {"a": [1.0, {"b": None}]}, True),
    ],
)
def test_which_answers_are_the_same(one: Any, other: Any, same: bool) -> None:
    assert compare(one, other).same is same
    assert compare(other, one).same is same


@given(DOUBLES, DOUBLES | st.none(), st.floats(min_value=-1e-5, max_value=1e-5))
def test_doubles_are_compared_as_the_standard_library_does(one: float, other: float | None, step: float) -> None:
    other = one * (1 + step) if other is None else other
    with np.errstate(over="ignore"):
        if math.isinf(other) or float(np.float32(one)) == one:
            return  # what 32 bits hold is compared more loosely, see below
    assert compare(one, other).same is math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    assert compare(one, other, EXACT).same is (one == other)


def test_single_precision_has_its_own_noise() -> None:
    value = np.float32(0.7310586)
    for steps in range(1, 40):
        later = value
        for _ in range(steps):
            later = np.nextafter(later, np.float32(1))
        assert compare(float(value), float(later)).same
    assert not compare(float(value), float(np.float32(value * np.float32(1.001)))).same
    # the same distance is too much for doubles
    assert not compare(0.7310586123456789, 0.7310586123456789 * (1 + 5e-6)).same
    assert not compare(float(value), float(np.nextafter(value, np.float32(1))), EXACT).same


def test_the_first_fault_and_the_largest_difference_are_told() -> None:
    expected = {"predictions": [{"price": 1.0, "n": 1}, {"price": 200.0, "n": 2}, {"price": 3.0, "n": 3}]}
    got = {"predictions": [{"price": 1.0 + 1e-8, "n": 1}, {"price": 200.2, "n": 2}, {"price": 3.0, "n": 4}]}
    found = compare(expected, got)
    assert str(found.fault) == ("predictions[1].price: expected 200.0, got 200.2, off by 0.2 (0.000999 relative)")
    assert found.largest == found.fault
    loose = compare(expected, got, Tolerance(relative=0.01))
    assert str(loose.fault) == "predictions[2].n: expected 3, got 4, off by 1 (0.25 relative)"
    assert loose.largest is not None and loose.largest.path == "predictions[1].price"


@pytest.mark.parametrize(
    ("expected", "got", "text"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "a[1].b: expected 2, got 3, off by 1 (0.333 relative)"),
        ({"a": 1}, {"b": 1}, 'the answer: expected {"a": 1}, got {"b": 1}'),
        ([1], [1, 2], "the answer: expected [1], got [1, 2]"),
        ([1.0], [1], "[0]: expected 1.0, got 1"),
    ],
)
def test_a_difference_is_told_in_one_line(expected: object, got: object, text: str) -> None:
    assert str(compare(expected, got).fault) == text


def test_texts_that_are_not_json_are_compared_by_their_letters() -> None:
    assert compare_texts("no json", b"no json").same
    assert compare_texts("no json", "no json").same
    assert not compare_texts("no json", "no Json").same
    assert compare_texts('{"a": 1.0, "b": 2}', '{"b":2,"a":1.00000000001}').same


def test_an_answer_nested_deeper_than_the_stack_is_compared() -> None:
    one: Any = 1.0
    other: Any = 2.0
    for _ in range(5000):
        one, other = [one], [other]
    fault = compare(one, other).fault
    assert fault is not None and (fault.expected, fault.got) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        (None, DEFAULT),
        ("exact", EXACT),
        ({"rtol": 0, "atol": 0}, EXACT),
        ({"rtol": 1e-3}, Tolerance(relative=1e-3, relative_single=1e-3)),
        ({"atol": 0}, Tolerance(absolute=0)),
        ({"rtol": 1e-6, "atol": 1}, Tolerance(relative_single=1e-6, absolute=1)),
    ],
)
def test_a_tolerance_is_read_as_it_is_written(stated: Any, read: Tolerance) -> None:
    assert Tolerance.from_json(stated) == read
    assert Tolerance.from_json(json.loads(json.dumps(read.to_json()))) == read


@pytest.mark.parametrize("stated", ["loose", 1e-3, {"rtol": "1"}, {"rtol": -1}, {"atol": math.nan}, {"x": 1}, [True]])
def test_what_is_no_tolerance_is_refused(stated: Any) -> None:
    with pytest.raises(ValueError, match="is not a tolerance"):
        Tolerance.from_json(stated)


def test_of_long_texts_the_part_that_differs_is_shown() -> None:
    same = "the same beginning of both answers, " * 20
    fault = compare({"text": same + "one way" + same}, {"text": same + "another" + same}).fault
    assert fault is not None
    expected, got = str(fault).split(", got ")
    assert ("one way" in expected, "another" in got) == (True, True)
    assert len(str(fault)) < 200
