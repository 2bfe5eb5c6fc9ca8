"""Limits at the border: what just fits, and what is one more."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from kbuild.api.fleet.watching import parse_duration
from kbuild.cli.audit_formats import worst_of
from kbuild.cli.listed import Listed
from kbuild.cli.many import read_references
from kbuild.cli.measure import _connections as connections
from kbuild.cli.run import _how_to_ask as how_to_ask
from kbuild.errors import BuildFailed, ConfigurationError, InvalidModel, InvalidReference
from kbuild.model.find import RegisteredVersion
from kbuild.untrusted import LARGEST
from kbuild.workflow.audit.difference import _MAX_PARAMETER, _model_parameters
from kbuild.workflow.audit.request import Audited
from kbuild.workflow.fleet.failed import ATTEMPTS, Failed, make_failed, read_failed
from kbuild.workflow.fleet.receiver import parse_address
from kbuild.workflow.fleet.shard import Shard
from kbuild.workflow.fleet.wanted import Rules, add_named, find_wanted
from kbuild.workflow.queue.page import _duration as duration


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (5400, "90 min")],
)
def test_times_are_in_seconds_minutes_or_hours(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("read", "fits", "beyond"),
    [
        (lambda text: parse_duration(text), ["1s", "1.0s"], ["0.9s", "0s"]),
        (lambda text: parse_address(text), [":65535", ":0"], [":65536", ":-1"]),
        (lambda text: Shard.parse(text), ["1/1", "3/3"], ["0/1", "4/3"]),
    ],
)
def test_what_is_typed_is_read_up_to_the_border(read: Any, fits: list[str], beyond: list[str]) -> None:
    for text in fits:
        assert read(text) is not None
    for text in beyond:
        with pytest.raises(ConfigurationError):
            read(text)


def test_so_many_connections_can_be_asked_for() -> None:
    given: Any = None
    assert connections(given, given, "1,256") == (1, 256)
    for text in ("0", "257", "1,0"):
        with pytest.raises(click.BadParameter):
            connections(given, given, text)


@pytest.mark.parametrize(("signs", "cut"), [(449, False), (450, False), (451, True)])
def test_an_error_is_cut_where_it_is_too_long_for_a_tag(signs: int, cut: bool) -> None:
    failed = make_failed(InvalidModel("x" * signs), None, now=0.0)
    assert len(failed.reason) == min(signs, 450) and failed.reason.endswith("…") is cut


@pytest.mark.parametrize(("hint", "told"), [(None, "it is gone"), ("log it\n again", "it is gone (log it again)")])
def test_what_to_do_is_told_beside_what_failed(hint: str | None, told: str) -> None:
    assert make_failed(InvalidModel("it is\ngone", hint=hint), None, now=0.0).reason == told


@pytest.mark.parametrize(("before", "again"), [(ATTEMPTS - 2, True), (ATTEMPTS - 1, False), (ATTEMPTS, False)])
def test_the_last_attempt_is_the_last(before: int, again: bool) -> None:
    failed = make_failed(BuildFailed("no room"), Failed(reason="r", attempts=before, again=0.0), now=50.0)
    assert failed.attempts == before + 1 and (failed.again is not None) is again
    assert failed.again is None or failed.again > 50.0
    assert read_failed({key: str(value) for key, value in failed.tags().items()}) == failed


@pytest.mark.parametrize(("now", "due"), [(99.0, False), (100.0, True), (101.0, True)])
def test_what_failed_is_tried_again_from_its_moment_on(now: float, due: bool) -> None:
    tags = {key: str(value) for key, value in Failed(reason="r", attempts=1, again=100.0).tags().items()}
    version = RegisteredVersion(name="till", version="1", tags=tags, created=1.0)
    wanted = find_wanted([version], Rules(), now=now)
    assert (wanted.builds == [version], wanted.again) == (due, None if due else 100.0)


@pytest.mark.parametrize(("created", "wanted"), [(9.9, False), (10.0, True)])
def test_what_was_registered_at_that_moment_is_wanted(created: float, wanted: bool) -> None:
    version = RegisteredVersion(name="till", version="1", created=created)
    assert bool(find_wanted([version], Rules(since=10.0), now=99.0).builds) is wanted


@pytest.mark.parametrize(("length", "kept"), [(4500, True), (4501, False)])
def test_names_are_kept_while_there_is_room_for_them(length: int, kept: bool) -> None:
    """MLflow takes 5000 signs of a tag's value."""
    other = "r/old@" + "x" * (length - len("r/new@sha256:1 r/old@"))
    named = add_named(other, "r/new", "sha256:1")
    assert named.split() == (["r/new@sha256:1", other] if kept else ["r/new@sha256:1"])


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
@pytest.mark.parametrize("pipe", [True, False])
def test_a_list_of_models_may_be_so_large(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: int, fits: bool, pipe: bool
) -> None:
    text = "models:/m/1\n" + "#" * (LARGEST + more - len("models:/m/1\n"))
    (tmp_path / "list").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    source = "-" if pipe else str(tmp_path / "list")
    if fits:
        assert read_references(source) == {"models:/m/1": None}
        return
    with pytest.raises(ConfigurationError, match=f"it has more than {LARGEST >> 20} MiB"):
        read_references(source)


@pytest.mark.parametrize(
    ("faults", "told"), [(1, "1 line that"), (20, "20 lines"), (21, "more than 20 lines"), (60, "more than 20 lines")]
)
def test_of_what_is_no_list_some_lines_are_told(tmp_path: Path, faults: int, told: str) -> None:
    (tmp_path / "list").write_text("models:/m/1\n" + "not a model\n" * faults)
    with pytest.raises(InvalidReference) as caught:
        read_references(str(tmp_path / "list"))
    assert f"list has {told}" in caught.value.message
    assert caught.value.message.count("'not a model' names") == min(faults, 20) and "line 2: " in caught.value.message


@pytest.mark.parametrize(("signs", "written"), [(300, False), (301, True)])
def test_a_long_example_is_asked_from_a_file(tmp_path: Path, signs: int, written: bool) -> None:
    example = json.dumps({"inputs": "x" * (signs - len('{"inputs": ""}'))}).encode()
    assert len(example) == signs
    files = {"MLmodel": b"saved_input_example_info: {serving_input_path: e.json}", "e.json": example}
    running: Any = SimpleNamespace(url="http://u", read_file=lambda path: files.get(path.rpartition("/")[2]))
    line = "\n".join(how_to_ask(running, tmp_path / "request.json"))
    assert (tmp_path / "request.json").exists() is written and (f"@{tmp_path}/request.json" in line) is written
    # In lines of a terminal: where JSON has a space it may have the end of a line.
    assert written or "".join(example.decode().split()) in "".join(line.split())


@pytest.mark.parametrize(("width", "apart"), [(78, False), (79, True)])
def test_examples_that_do_not_fit_beside_what_they_do_stand_above_it(width: int, apart: bool) -> None:
    does = "d" * (width - len("  kbuild   "))
    lines = Listed(summary="s", examples=(("kbuild", does),)).epilog().splitlines()
    assert lines == ["\b", "Examples:", *(["  kbuild", f"      {does}"] if apart else [f"  kbuild   {does}"])]


@pytest.mark.parametrize(("more", "told"), [(0, True), (1, False)])
def test_parameters_that_are_small_are_compared(tmp_path: Path, more: int, told: bool) -> None:
    name = "artifacts/params_rate.json"
    (tmp_path / "artifacts").mkdir()
    text = json.dumps("x" * (_MAX_PARAMETER - 2 + more))
    (tmp_path / name).write_text(text)
    (tmp_path / "artifacts/other.json").write_text('"no parameter"')
    files = [
        SimpleNamespace(path=path, size=(tmp_path / path).stat().st_size) for path in (name, "artifacts/other.json")
    ]
    found = _model_parameters(SimpleNamespace(root=tmp_path, files=files))  # type: ignore[arg-type]
    assert _MAX_PARAMETER == 65536 and list(found) == ["params:rate"] * told


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ((), ("clean", 0)), (("clean",), ("clean", 1)), (("clean", "incomplete"), ("incomplete", 1)),
        (("incomplete", "findings", "findings"), ("findings", 2)), (("clean", None), ("incomplete", 1)),
        (("clean", None, "incomplete"), ("incomplete", 2)),
    ],
)  # fmt: skip
def test_the_worst_verdict_counts_and_what_could_not_be_audited_is_incomplete(
    verdicts: tuple[str | None, ...], worst: tuple[str, int]
) -> None:
    def result(verdict: str | None) -> Any:
        if verdict is None:
            return InvalidModel("no model")
        return Audited(report=SimpleNamespace(verdict=verdict), subject=None)  # type: ignore[arg-type]

    assert worst_of([("m", result(each)) for each in verdicts]) == worst
