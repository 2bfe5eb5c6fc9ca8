from __future__ import annotations

import json
import math
from typing import Any

from kbuild.audit.report.compare import Side, compare


def side(bundle: Any, name: str, lock: Any = None, **parameters: str) -> Side:
    return Side(reference=name, bundle=bundle, lock=lock, parameters=parameters)


def test_equal_models_do_not_differ(make_bundle: Any) -> None:
    one, two = (make_bundle(name, files={"code/x.py": b"1"}, model_id=f"m-{name}") for name in ("one", "two"))
    difference = compare(side(one, "one", alpha="1"), side(two, "two", alpha="1"))
    assert difference.is_empty
    assert difference.to_text() == "no differences between one and two\n"
    long = compare(side(one, "7" * 32), side(two, f"models:/m-{'8' * 32}"))
    assert long.to_text() == f"no differences between {'7' * 12} and models:/m-{'8' * 12}\n"
    assert long.to_json()["before"] == "7" * 32


def test_each_part_is_compared(make_bundle: Any, make_lock: Any, make_entry: Any) -> None:
    signature = {"inputs": json.dumps([{"type": "long", "name": "age"}, {"type": "double", "name": "bmi"}])}
    one = make_bundle("one", files={"code/a.py": b"1", "code/b.py": b"1", "artifacts/w.pkl": b"1"})
    two = make_bundle("two", files={"code/a.py": b"2", "artifacts/w.pkl": b"2"}, signature=signature)
    before = make_lock(make_entry("six", "1.16.0"), make_entry("gone", "1"))
    after = make_lock(make_entry("six", "1.17.0"), make_entry("new", "1", "conda"))
    difference = compare(side(one, "one", before, alpha="1"), side(two, "two", after, alpha="2", beta="3"))
    changes = {part: [each.name for each in found] for part, found in difference.changes}
    assert changes == {
        "metrics": [],
        "parameters": ["alpha", "beta"],
        "packages": ["conda:new (linux-64)", "pip:gone (linux-64)", "pip:six (linux-64)"],
        "code": ["code/a.py", "code/b.py"],
        "artifacts": ["artifacts/w.pkl"],
        "signature": ["inputs.age", "inputs.bmi"],
    }
    assert difference.packages_from == "locks"
    text = difference.to_text()
    assert "  - pip:gone (linux-64): 1" in text
    assert "  ~ alpha: 1 -> 2" in text
    assert "  + beta: 3" in text
    assert list(difference.to_json()) == ["before", "after", "packages_from", *changes]


def test_without_locks_the_training_versions_are_compared(make_bundle: Any, make_lock: Any, make_entry: Any) -> None:
    one = make_bundle("one", constraints="six==1.16.0\n", metadata={"kbuild": {"python": "3.11.6"}})
    two = make_bundle("two", constraints="six==1.17.0\nnew==2\n")
    difference = compare(side(one, "one", make_lock(make_entry("six", "1"))), side(two, "two"))
    assert difference.packages_from == "training"
    found = {each.name: (each.before, each.after) for each in dict(difference.changes)["packages"]}
    assert found == {"pip:six": ("1.16.0", "1.17.0"), "pip:new": (None, "2"), "python": ("3.11.6", "3.11.7")}


def test_metrics_are_told_as_far_as_they_differ(make_bundle: Any) -> None:
    one, two = (
        Side(reference=name, bundle=make_bundle(name, model_id="m-1"), lock=None, parameters={}, metrics=metrics)
        for name, metrics in (
            ("one", {"r2": 0.5, "close": 0.1, "lost": math.nan, "gone": 1e-12}),
            ("two", {"r2": 0.75, "close": 0.1 + 2**-56, "lost": math.nan}),
        )
    )
    assert compare(one, two).to_text().splitlines()[2:] == [
        "metrics",
        "  ~ close: 0.1 -> 0.10000000000000002",
        "  - gone: 1e-12",
        "  ~ r2: 0.5 -> 0.75",
    ]
