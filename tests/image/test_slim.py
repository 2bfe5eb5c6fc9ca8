from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from locked import package

from kbuild.environment.lockfile import LockedPackage
from kbuild.image.slim.packages import (
    Rehearsal,
    RehearsalFailed,
    choose_kept,
    find_asked,
    first_difference,
    keep_groups,
    rehearse,
)
from kbuild.plan.left_out import NOTHING, LeftOut
from kbuild.plan.split import PackageGroup, WheelFacts
from kbuild.process import Completed

SITE = "lib/python3.11/site-packages"


FULL = package("mlflow", "mlflow-skinny", "flask", "pandas")
SKINNY = package("mlflow-skinny", "click", "fastapi")
FASTAPI = package("fastapi", "pydantic")
PANDAS = package("pandas", "Tz_Data")
OTHERS = {name: package(name) for name in ("flask", "click", "pydantic", "tz-data", "seaborn", "stray")}
PACKAGES = [FULL, SKINNY, FASTAPI, PANDAS, *OTHERS.values()]
FACTS: Mapping[LockedPackage, WheelFacts] = {
    **{each: WheelFacts(size=10, paths=frozenset({f"site/{each.name}/__init__.py"})) for each in PACKAGES},
    FULL: WheelFacts(size=50, paths=frozenset({"site/mlflow/__init__.py", "site/mlflow/server.py"})),
    SKINNY: WheelFacts(size=20, paths=frozenset({"site/mlflow/__init__.py"})),
}


def kept(files: Sequence[str], requirements: Sequence[str] = ()) -> set[str]:
    return {each.name for each in choose_kept(FACTS, files, requirements, short="3.11")}


def test_what_was_read_stays_with_what_it_asks_for_but_mlflow_brings_nothing_along() -> None:
    assert kept([f"{SITE}/mlflow/__init__.py"]) == {"mlflow-skinny"}
    assert kept([f"{SITE}/mlflow/__pycache__/server.cpython-311.pyc"]) == {"mlflow"}
    assert kept([f"{SITE}/fastapi/__init__.py"]) == {"fastapi", "pydantic"}


def test_what_the_model_asks_for_stays_read_or_not_but_for_mlflow() -> None:
    assert kept([], ["mlflow==3.1", "Pandas>=2", "seaborn[x]; python_version > '3'", "gone"]) == {
        "pandas", "tz-data", "seaborn",
    }  # fmt: skip


def test_reading_metadata_or_other_files_says_nothing() -> None:
    assert kept([f"{SITE}/stray-1.dist-info/entry_points.txt", "lib/python3.11/os.py", "bin/python3.11"]) == set()


def test_groups_lose_what_is_left_out_and_empty_ones_are_gone() -> None:
    groups = (PackageGroup(name="a", packages=(FULL, SKINNY)), PackageGroup(name="b", packages=(OTHERS["tz-data"],)))
    left_out = LeftOut(packages=("mlflow", "tz_data"))
    assert keep_groups(groups, left_out) == (PackageGroup(name="a", packages=(SKINNY,)),)
    assert keep_groups(groups, NOTHING) == groups
    (group,) = keep_groups(groups, replace(left_out, files={"*": ("tests/",), "mlflow-skinny": ("a.so",)}))
    assert group.left_out == {"mlflow-skinny": ("a.so", "tests/")}


def test_what_the_model_asks_for_is_told_from_what_only_mlflow_asks_for() -> None:
    asked = find_asked(PACKAGES, ["mlflow==3.1", "mlflow-skinny", "Pandas>=2"])
    assert {each.name for each in asked} == {"pandas", "tz-data"}


def rehearsal(*answers: Any) -> Rehearsal:
    return Rehearsal(files=frozenset(), answers=answers, seconds=1.0)


def test_answers_are_compared_one_by_one() -> None:
    assert first_difference(rehearsal([200, "a"]), rehearsal([200, "a"])) is None
    assert first_difference(rehearsal([200, "a"]), rehearsal([500, "b"])) == (
        "request 0 is answered [500, 'b'] instead of [200, 'a']"
    )
    one, other = ({"error_code": "BAD_REQUEST", "message": f"{'unexpected ' * 90}{end}"} for end in ("1a", "2b"))
    told = first_difference(rehearsal([400, json.dumps(one)]), rehearsal([400, json.dumps(other)]))
    assert told is not None and told.startswith("of request 0, message: expected ")
    assert "1a" in told and "2b" in told and len(told) < 500
    assert first_difference(rehearsal(1, 2), rehearsal(1)) == "not every request is answered"


class Fake:
    """A Runner whose program writes ``text``, or ends badly."""

    def __init__(self, text: str | None, code: int = 0) -> None:
        self.text, self.code = text, code
        self.environment: Mapping[str, str] = {}

    def __call__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **_: object) -> Completed:
        self.environment = env or {}
        if self.text is not None:
            Path(argv[-1]).write_text(self.text, encoding="utf-8")
        return Completed(tuple(argv), self.code, "", "Traceback\nModuleNotFoundError: No module named 'x'\n")


def ask(folder: Path, fake: Fake) -> Rehearsal:
    return rehearse(folder, folder / "rt", folder / "model", short="3.11", scratch=folder, run=fake)


def test_a_rehearsal_runs_by_the_images_own_interpreter_and_environment(tmp_path: Path) -> None:
    fake = Fake(json.dumps({"files": ["a"], "answers": [[200]], "seconds": 2}))
    assert ask(tmp_path, fake) == Rehearsal(files=frozenset({"a"}), answers=([200],), seconds=2.0)
    assert fake.environment["KBUILD_MODEL"] == str(tmp_path / "model")
    assert "KBUILD_TOKEN" not in fake.environment and fake.environment["PYTHONHASHSEED"] == "0"


@pytest.mark.parametrize(("text", "code"), [(None, 0), ("{}", 1), ("{}", 0), ("]", 0)])
def test_a_rehearsal_that_fails_says_why(tmp_path: Path, text: str | None, code: int) -> None:
    with pytest.raises(RehearsalFailed, match="cannot be"):
        ask(tmp_path, Fake(text, code))


def test_a_model_that_hangs_is_told(tmp_path: Path) -> None:
    def hang(*_: object, **__: object) -> Completed:
        raise TimeoutError

    with pytest.raises(RehearsalFailed, match="within 600 s"):
        rehearse(tmp_path, tmp_path, tmp_path, short="3.11", scratch=tmp_path, run=hang)
