from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbuild.errors import TriggerFailed
from kbuild.process import Completed
from kbuild.trigger import background
from kbuild.trigger.background import BackgroundJob, JobStep, main, read_job, run_job

JOB = BackgroundJob(
    run_id="r",
    cwd="/",
    steps=(JobStep(name="image", argv=("build",)), JobStep(name="verify", argv=("verify", "{image}", "{other}"))),
)


class Machine:
    """Runs nothing; ``codes`` by program."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.ran: list[list[str]] = []
        self.said: list[str] = []

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        self.ran.append(list(argv))
        return Completed(tuple(argv), self.codes.get(argv[0], 0), "talk\nchurn@sha256:1\n", "")

    def do(self, *statuses: str) -> list[float]:
        slept: list[float] = []
        states = list(statuses)
        run_job(
            JOB,
            run=self.run,
            say=self.said.append,
            find_status=lambda run_id: states.pop(0) if len(states) > 1 else states[0],
            sleep=slept.append,
            environ={},
        )
        return slept


def test_it_waits_for_the_end_of_the_run_and_passes_the_image_on() -> None:
    machine = Machine()
    assert machine.do("RUNNING", "RUNNING", "FINISHED") == [2.0, 2.0]
    assert machine.ran == [["build"], ["verify", "churn@sha256:1", "{other}"]]
    assert "churn@sha256:1" in machine.said


@pytest.mark.parametrize(
    ("steps", "given"),
    [
        (["image", "verify", "audit"], {"audit": "built"}),
        (["lock", "image", "verify", "audit", "push"], {"verify": "built", "audit": "built", "push": "built"}),
        (["lock", "verify", "image", "audit"], {"verify": "", "audit": "built"}),
    ],
)
def test_what_steps_are_given_is_what_the_one_that_builds_printed_last(steps: list[str], given: dict[str, str]) -> None:
    """Others print digests too, and lines of their own."""
    ran: dict[str, str] = {}

    def run(argv: Sequence[str], **_: Any) -> Completed:
        ran[argv[0]] = argv[1]
        printed = "registry.example/other@sha256:2\nbuilt" if argv[0] == "image" else f"talk of {argv[0]}"
        return Completed(tuple(argv), 0, f"{printed}\n\n", "")

    job = replace(JOB, steps=tuple(JobStep(name=each, argv=(each, "{image}")) for each in steps))
    run_job(job, run=run, say=lambda _: None, find_status=lambda _: "FINISHED", environ={})
    assert list(ran) == steps
    assert {each: ran[each] for each in given} == given


def test_the_first_failure_ends_it() -> None:
    machine = Machine(build=41)
    with pytest.raises(TriggerFailed, match="image failed with exit code 41"):
        machine.do("FINISHED")
    assert machine.ran == [["build"]]


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_nothing_is_built_from_a_run_that_failed(status: str) -> None:
    machine = Machine()
    with pytest.raises(TriggerFailed, match=f"is {status}"):
        machine.do(status)
    assert machine.ran == []


def test_a_run_that_never_ends_is_given_up() -> None:
    with pytest.raises(TriggerFailed, match="still RUNNING after 60 minutes"):
        Machine().do("RUNNING")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run_id": 1}'])
def test_what_is_no_job(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job").write_text(text)
    with pytest.raises(TriggerFailed, match="is not a job of kbuild"):
        read_job(tmp_path / "job")
    assert main([str(tmp_path / "job")], run=Machine().run) == TriggerFailed.exit_code
    assert "error: " in capsys.readouterr().out


def test_even_a_defect_ends_as_a_line_of_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> BackgroundJob:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(background, "read_job", fail)
    assert main(["job"], run=Machine().run) == 1
    assert capsys.readouterr().out.endswith("error: ZeroDivisionError: on purpose\n")
