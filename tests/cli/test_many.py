import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from kbuild.cli import image as image_command
from kbuild.cli import many
from kbuild.cli.many import check_delivery, image_many, read_references
from kbuild.cli.show import Show
from kbuild.environment.locking.wanted import LockRequest
from kbuild.errors import ConfigurationError, InvalidModel, InvalidReference, ModelNotFound, SomeFailed
from kbuild.model.store import DirectStore
from kbuild.workflow import Delivery, ImageRequest, Outcome
from kbuild.workflow.delivery import Verified

RUN = "0123456789abcdef0123456789abcdef"


def test_a_file_has_a_reference_a_line(tmp_path: Path) -> None:
    (tmp_path / "a#b").mkdir()
    (tmp_path / "a#b/MLmodel").touch()
    file = tmp_path / "refs.txt"
    file.write_text(
        f"# all of them\n\n  {RUN}  # the first\r\nmodels:/churn@prod\t1.5 GB # big\n{tmp_path}/a#b\n{RUN}\n"
    )
    assert read_references(str(file)) == {RUN: None, "models:/churn@prod": 1_500_000_000, f"{tmp_path}/a#b": None}


def test_every_bad_line_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "refs.txt"
    file.write_text(f"nonsense\n{RUN}\nmodels:/churn@\nmodels:/churn\tlarge\n")
    with pytest.raises(InvalidReference) as caught:
        read_references(str(file))
    assert "line 1: 'nonsense'" in caught.value.message and "line 3: 'models:/churn@'" in caught.value.message
    assert "line 4" in caught.value.message and "large" in caught.value.message
    assert "line 2" not in caught.value.message
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_references(str(tmp_path / "absent"))


def test_a_line_may_name_a_run_as_the_argument_does(tmp_path: Path) -> None:
    def named(text: str) -> str:
        if text == "gone":
            raise ModelNotFound("no run is called 'gone'")
        return {"@latest": RUN, "spring sweep": "f" * 32}[text]

    file = tmp_path / "refs.txt"
    file.write_text("@latest\t2 MB\nspring sweep\nmodels:/churn/3\n")
    assert read_references(str(file), named) == {RUN: 2_000_000, "f" * 32: None, "models:/churn/3": None}
    file.write_text("@latest\ngone\n")
    with pytest.raises(InvalidReference, match="has 1 line that names no model: line 2: no run is called 'gone'"):
        read_references(str(file), named)


def test_models_may_come_by_a_pipe_and_there_is_an_end_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{RUN}\nmodels:/churn/3\t2 MB\n{RUN}\t1 MB\n{RUN}\n"))
    assert read_references("-") == {RUN: 1_000_000, "models:/churn/3": 2_000_000}
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * (many.LARGEST + 1)))
    with pytest.raises(ConfigurationError, match="cannot read -: it has more than"):
        read_references("-")
    monkeypatch.setattr("sys.stdin", io.StringIO("no model\n" * 1000))
    with pytest.raises(InvalidReference, match=r"- has more than [0-9]+ lines that name no model: line 1: ") as caught:
        read_references("-")
    assert len(caught.value.message.split("; ")) < 100


def test_one_name_for_many_images_is_refused() -> None:
    check_delivery(["a"], Delivery(push="registry.example/churn:1"))
    check_delivery(["a", "b"], Delivery(push="registry.example/churn:{version}"))
    with pytest.raises(click.UsageError, match="--tag churn would be the name of 2 images"):
        check_delivery(["a", "b"], Delivery(tag="churn"))
    with pytest.raises(click.UsageError, match="--output"):
        check_delivery(["a"], Delivery(output=Path("image")))


def test_failures_are_told_at_the_end_and_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_many(requests: Any, *args: Any, watcher: Any, **options: Any) -> Any:
        for request in requests[:1]:
            yield Outcome(model=request.model, seconds=1.5, error=InvalidModel("broken", hint="mend it"))

    monkeypatch.setattr(many, "build_many", build_many)
    requests = [ImageRequest(model=name, lock=LockRequest(platforms=())) for name in ("a", "b")]
    report = tmp_path / "report.json"
    tools: Any = None
    with pytest.raises(SomeFailed, match="1 of 2 models have no image"):
        image_many(
            requests, Delivery(), tools, Show(), jobs=1, builders=(), reuse=True, report=report, to_json=None
        )  # fmt: skip
    assert json.loads(report.read_text()) == {
        "format": 1,
        "models": [
            {
                "model": "a",
                "seconds": 1.5,
                "status": "failed",
                "error": {"message": "broken", "hint": "mend it", "exit_code": 15},
            },
            {"model": "b", "seconds": 0.0, "status": "stopped"},
        ],
    }
    captured = capsys.readouterr()
    assert captured.out == "" and "a: broken" in captured.err


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")])
def test_a_command_that_is_ended_leaves_a_report_of_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    """Who is stopped, by a signal or by its own fault, tells what was built, and of which model nothing came."""

    def build_many(requests: Any, *args: Any, **options: Any) -> Any:
        yield Outcome(model="a", seconds=1.5, error=InvalidModel("broken"))
        raise end

    monkeypatch.setattr(many, "build_many", build_many)
    requests = [ImageRequest(model=name, lock=LockRequest(platforms=())) for name in ("a", "b")]
    report = tmp_path / "report.json"
    tools: Any = None
    with pytest.raises(type(end)):
        image_many(
            requests, Delivery(), tools, Show(), jobs=1, builders=(), reuse=True, report=report, to_json=None,
            shared={"shard": 1},
        )  # fmt: skip
    told = json.loads(report.read_text())
    assert [(each["model"], each["status"]) for each in told["models"]] == [("a", "failed"), ("b", "stopped")]
    assert told["shard"] == 1


def test_images_that_mlflow_was_not_told_of_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user who may only read gets every image, and the reason once."""

    def build_many(requests: Any, *args: Any, watcher: Any, **options: Any) -> Any:
        for request, reason in zip(requests, ("read only", None, "read only"), strict=True):
            result: Any = SimpleNamespace(
                reference="x@y",
                digest="y",
                pushed=None,
                untagged=reason,
                reused=False,
                verified=Verified(reason="no runtime"),
            )
            yield Outcome(model=request.model, seconds=1.0, result=result)

    monkeypatch.setattr(many, "build_many", build_many)
    requests = [ImageRequest(model=name, lock=LockRequest(platforms=())) for name in ("a", "b", "c")]
    report = tmp_path / "report.json"
    tools: Any = None
    image_many(requests, Delivery(), tools, Show(), jobs=1, builders=(), reuse=True, report=report, to_json=None)
    assert [each.get("untagged") for each in json.loads(report.read_text())["models"]] == [
        "read only", None, "read only"
    ]  # fmt: skip
    told = capsys.readouterr().err
    assert "not tagged with their images: a, c: read only" in told
    assert "not verified: a, b, c: no runtime" in told
    entries = json.loads(report.read_text())["models"]
    assert [(each["verified"], each["not_verified"]) for each in entries] == [(None, "no runtime")] * 3


@pytest.mark.parametrize(
    "argv",
    [
        ["--jobs", "2"],
        [RUN, "--all-registered"],
        [RUN, "--jobs", "2"],
        [RUN, "--builder", "a,b"],
        [RUN, "--report", "x"],
        [RUN, "--shard", "1/2"],
    ],
)
def test_what_does_not_go_together_is_refused(argv: list[str]) -> None:
    assert CliRunner().invoke(image_command.command, argv).exit_code == 2


def test_where_there_is_nothing_to_build_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(DirectStore, "registered", lambda store: [])
    (tmp_path / "refs.txt").write_text("# none yet\n")
    done = CliRunner().invoke(image_command.command, ["--from-file", "refs.txt"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "refs.txt names no model\n")
    done = CliRunner().invoke(image_command.command, ["--all-registered"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "asking for the registered models\nno model is registered\n"


def test_a_size_that_is_stated_counts_and_not_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that see the folder in different states share by what all of them read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name, size in (("grown", 900_000_000), ("small", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "MLmodel").touch()
        with (tmp_path / name / "weights").open("wb") as file:
            file.truncate(size)
    (tmp_path / "refs.txt").write_text("grown\t10\nsmall\nmodels:/a/1\t500 MB\n")
    built: list[list[str]] = []

    def build_many(requests: Any, *args: Any, **options: Any) -> Any:
        built.append([request.model for request in requests])
        yield from ()

    monkeypatch.setattr(many, "build_many", build_many)
    for number in (1, 2):
        assert (
            CliRunner().invoke(image_command.command, ["--from-file", "refs.txt", "--shard", f"{number}/2"]).exit_code
            == 0
        )
    assert sorted(built) == [["grown", "small"], ["models:/a/1"]]


def test_shares_of_a_file_fit_together_and_names_are_checked_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name, size in (("large", 900_000_000), ("small", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "MLmodel").touch()
        with (tmp_path / name / "weights").open("wb") as file:
            file.truncate(size)
    (tmp_path / "refs.txt").write_text("models:/a/1\t10\nlarge\nsmall\nmodels:/b/1\t10\n")
    built: list[list[str]] = []

    def build_many(requests: Any, *args: Any, **options: Any) -> Any:
        built.append([request.model for request in requests])
        yield from ()

    monkeypatch.setattr(many, "build_many", build_many)
    lists = []
    for number in (1, 2, 3):
        arguments = ["--from-file", "refs.txt", "--shard", f"{number}/3", "--report", "report.json"]
        assert CliRunner().invoke(image_command.command, arguments).exit_code == 0
        lists.append(json.loads((tmp_path / "report.json").read_text())["shard"])
    assert ["large"] in built, "the others are dealt out to the other two"
    assert sorted(model for share in built for model in share) == ["large", "models:/a/1", "models:/b/1", "small"]
    assert len({each["list"] for each in lists}) == 1 and [each["number"] for each in lists] == [1, 2, 3]
    done = CliRunner().invoke(image_command.command, ["--from-file", "refs.txt", "--shard", "1/4", "--tag", "churn:1"])
    assert done.exit_code == 2 and "would be the name of 4 images" in done.stderr, "though each share has one"
