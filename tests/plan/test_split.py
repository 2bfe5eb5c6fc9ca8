from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from locked import package

from kbuild.digest import digest_bytes
from kbuild.model.bundle import ModelBundle, ModelFile
from kbuild.plan.split import WheelFacts, split_model, split_packages

MB = 10**6


def facts(size: int, *paths: str) -> WheelFacts:
    return WheelFacts(size=size, paths=frozenset(paths))


def split(wheels: dict[str, WheelFacts]) -> dict[str, list[str]]:
    groups = split_packages({package(name): found for name, found in wheels.items()})
    return {group.name: [each.name for each in group.packages] for group in groups}


def test_heavy_wheels_come_first_and_the_largest_before_the_others() -> None:
    wheels = {"a": facts(9 * MB, "a"), "B_x": facts(99 * MB, "b"), "c": facts(1, "c"), "d": facts(2, "d")}
    found = split(wheels)
    assert found == {"package-b-x": ["B_x"], "package-a": ["a"], "dependencies": ["c", "d"]}
    assert list(found) == ["package-b-x", "package-a", "dependencies"]


def test_wheels_that_share_a_path_share_a_layer() -> None:
    wheels = {
        "mlflow": facts(60 * MB, "site/mlflow/a.py", "bin/mlflow"),
        "mlflow-skinny": facts(30 * MB, "site/mlflow/a.py"),
        "tracing": facts(1, "bin/mlflow"),
        "file": facts(1, "site/folder"),
        "folder": facts(1, "site/folder/inside"),
        "other": facts(1, "site/mlflow/b.py"),
    }
    assert split(wheels) == {
        "package-mlflow": ["mlflow", "mlflow-skinny", "tracing"],
        "dependencies": ["file", "folder", "other"],
    }
    heavy = {name: replace(found, size=20 * MB) for name, found in wheels.items()}
    assert split(heavy)["package-file"] == ["file", "folder"]


def test_there_are_never_many_layers() -> None:
    found = split({f"p{number:02}": facts(20 * MB, str(number)) for number in range(30)})
    assert len(found) == 11
    assert len(found["dependencies"]) == 20


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.frozensets(st.sampled_from(["p", "p/q", "r", "s/t", "s", "u"]))))
def test_each_package_is_in_one_group_and_no_two_groups_meet(paths: dict[str, frozenset[str]]) -> None:
    wheels = {package(name): WheelFacts(size=9 * MB, paths=found) for name, found in paths.items()}
    groups = split_packages(wheels)
    assert sorted(p.name for group in groups for p in group.packages) == sorted(paths)
    owners: dict[str, str] = {}
    for group in groups:
        for path in {path for each in group.packages for path in wheels[each].paths}:
            assert owners.setdefault(path, group.name) == group.name
    for path, owner in owners.items():
        for other, another in owners.items():
            assert owner == another or not other.startswith(f"{path}/")
    assert split_packages(dict(reversed(wheels.items()))) == groups


def test_large_artifacts_are_layers_of_their_own(bundle: ModelBundle) -> None:
    large = [ModelFile(path=f"artifacts/{n}", size=64 << 20, digest=digest_bytes(bytes([n]))) for n in range(20)]
    found = split_model(replace(bundle, files=(*bundle.files, *large)))
    names = list(found)
    assert names[0] == "project" and names[-1] == "model"
    assert len(names) == 14
    assert found[f"artifact-{large[0].digest.hex[:12]}"] == (large[0],)
    assert sum(len(files) for files in found.values()) == 23
