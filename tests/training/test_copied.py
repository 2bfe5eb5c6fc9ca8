"""What cannot be copied when training has ended, told before it begins."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.datasets.artifact import MlflowArtifactDataset
from kbuild.recording.preflight.copied import check_copies, check_places


def said(paths: Any, code: dict[str, Path] | None = None) -> list[str]:
    return [error.message for error in check_copies(paths, code or {})]


def test_code_that_can_be_copied_is_silent(tmp_path: Path) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "a.py").write_text("")
    (folder / "b.py").symlink_to("a.py")
    (tmp_path / "one.py").write_text("")
    assert said([str(folder), tmp_path / "one.py", "not-there"]) == []
    assert said(None) == said("one text") == []
    assert said([tmp_path / "one.py", str(tmp_path / "one.py")], {"one": tmp_path / "one.py"}) == []


def test_two_of_one_name_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "tools").mkdir(parents=True)
    [one] = said([str(tmp_path / "a/tools"), str(tmp_path / "b/tools")])
    assert "code/tools" in one and "b/tools" in one
    package = tmp_path / "a" / "tools"
    [error] = check_copies([str(package)], {"tools": package})
    assert error.hint == "leave it out: it travels already"
    (tmp_path / "kbuild").mkdir()
    assert "kbuild's own part" in said([str(tmp_path / "kbuild")])[0]


def test_links_to_nothing_pipes_and_circles_are_told(tmp_path: Path) -> None:
    for name in ("gone", "pipe", "circle"):
        (tmp_path / name).mkdir()
    (tmp_path / "gone" / "x.py").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe" / "x")
    (tmp_path / "circle" / "again").symlink_to(tmp_path / "circle")
    for name, words in (("gone", "a link to nothing"), ("pipe", "a pipe"), ("circle", "lies in itself")):
        [message] = said([str(tmp_path / name)])
        assert words in message and name in message
    assert "root of the disk" in said(["/"])[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "x.py").touch(mode=0)
    assert "cannot be read" in said([str(tmp_path / "tools")])[0]


def artifact(tmp_path: Path, file: str, folder: str | None = None) -> MlflowArtifactDataset:
    entry = {"type": "kedro_datasets.json.JSONDataset", "filepath": str(tmp_path / file)}
    return MlflowArtifactDataset(dataset=entry, artifact_path=folder)


def told(datasets: dict[str, Any], own: tuple[str, ...] = ("pipeline.json",)) -> list[str]:
    return [fault.error.message for fault in check_places(datasets, own)]


def test_artifacts_below_a_file_are_told(tmp_path: Path) -> None:
    report, below = artifact(tmp_path, "report.json"), artifact(tmp_path, "x.json", "report.json/deep")
    [message] = told({"report": report, "below": below})
    assert "'below'" in message and "'report'" in message
    assert told({"report": report, "beside": artifact(tmp_path, "x.json", "deep")}) == []
    assert told({"report": report, "metric": SimpleNamespace(), "none": None}) == []


def test_the_whole_look_sees_artifacts_as_the_catalog_has_them(tmp_path: Path) -> None:
    from kedro.io import CachedDataset, DataCatalog

    from kbuild.training.described import find_dataset, uncached

    catalog = DataCatalog({"report": CachedDataset(dataset=artifact(tmp_path, "x.json", "../up"))})
    assert not hasattr(find_dataset("report", catalog), "artifact_place")  # as other looks have it
    assert len(told({"report": uncached(catalog.get("report"))})) == 1


def test_artifacts_in_one_place_are_told(tmp_path: Path) -> None:
    [message] = told({"a": artifact(tmp_path, "a/x.json"), "b": artifact(tmp_path, "b/x.json")})
    assert "'b' is kept as x.json" in message and "'a'" in message
    [message] = told({"drawn": artifact(tmp_path, "pipeline.json")})
    assert "what kbuild writes there" in message
    assert told({"drawn": artifact(tmp_path, "pipeline.json")}, own=()) == []
    assert "folder pipeline.json" in told({"deep": artifact(tmp_path, "x.json", "pipeline.json")})[0]


@pytest.mark.parametrize("folder", ["../up", "a/../../b", "a/./b", "C:/x", "a\\b"])
def test_places_out_of_the_run_are_told(folder: str, tmp_path: Path) -> None:
    [message] = told({"a": artifact(tmp_path, "x.json", folder)})
    assert "artifact_path" in message
