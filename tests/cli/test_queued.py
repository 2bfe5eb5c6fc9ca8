"""``kbuild image --queue`` and ``kbuild worker`` with a board of a few lines in place of the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbuild.api.fleet import queueing
from kbuild.api.fleet.options import carry_options
from kbuild.api.fleet.queueing import build_asked
from kbuild.api.project import ProjectConfig
from kbuild.api.request import ImageOptions
from kbuild.cli import queued
from kbuild.cli.app import cli
from kbuild.errors import BuildFailed, ModelNotFound, QueueUnavailable, SomeFailed, TrackingUnavailable
from kbuild.image.oci.image_reference import ImageReference
from kbuild.workflow.queue.asked import Asked
from kbuild.workflow.queue.states import JobState, Put

PUSH = "registry.example/{name}:{version}"
OPTIONS = ["--queue", "postgresql://127.0.0.1:9/none", "--push", PUSH]
Look = list[JobState] | Exception


class Board:
    """Numbers its jobs from 11; what it is seen as, look for look, is told before."""

    def __init__(self, *looks: Look, there: Collection[str] = (), same: bool = False) -> None:
        self.looks, self.there, self.same = list(looks), there, same
        self.deleted: set[int] = set()
        self.asked: list[Asked] = []
        self.priority: int | None = None

    def put(self, asked: list[Asked], *, priority: int) -> list[Put]:
        self.asked, self.priority = asked, priority
        return [
            Put(id=11 if self.same else number, model=each.model, is_new=each.model not in self.there)
            for number, each in enumerate(asked, start=11)
        ]

    def jobs(self, ids: Collection[int], *, statuses: Collection[str]) -> list[JobState]:
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        assert "waiting" not in statuses and {each.status for each in look} <= {*statuses}
        return [each for each in look if each.id in ids]

    def gone(self, ids: Collection[int]) -> set[int]:
        return self.deleted & set(ids)


Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("kbuild.cli.extras.check_extra", lambda *_, **__: None)
    monkeypatch.setattr(queued, "_EVERY", 0.0)
    monkeypatch.setattr(queueing, "_named_for_all", lambda model, session: model)
    (tmp_path / "refs.txt").write_text("models:/a/1\nmodels:/b/2\n")

    def run(board: Board, *argv: str) -> Result:
        @contextmanager
        def open_queue(url: str | None) -> Iterator[Board]:
            assert url == OPTIONS[1]
            yield board

        monkeypatch.setattr(queued, "open_queue", open_queue)
        return CliRunner().invoke(cli, ["image", "--from-file", "refs.txt", *OPTIONS, *argv])

    return run


def job(id: int, status: Any, **more: Any) -> JobState:
    return JobState(id=id, model={11: "models:/a/1", 12: "models:/b/2"}[id], status=status, **more)


def built(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "status": "built", "seconds": 2.5, "image": f"x@sha256:{'1' * 64}", **more}


def test_jobs_are_put_there_with_their_numbers(call: Call) -> None:
    board = Board(there={"models:/b/2"})
    done = call(board, "--label", "team=a", "--priority", "7")
    assert (done.exit_code, done.stdout) == (0, "11\tmodels:/a/1\n12\tmodels:/b/2\n"), done.exception
    assert "1 job put into the queue, 1 is there already" in done.stderr
    assert board.priority == 7 and [each.model for each in board.asked] == ["models:/a/1", "models:/b/2"]
    assert {*board.asked[0].options} >= {"labels", "push"}, board.asked[0].options
    done = call(board := Board(), "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"job": 11, "model": "models:/a/1"}, {"job": 12, "model": "models:/b/2"}
    ]  # fmt: skip
    assert board.priority == 0 and "2 jobs put into the queue\n" in done.stderr


def test_who_waits_is_told_of_each_as_it_ends(call: Call, tmp_path: Path) -> None:
    a, b = built("models:/a/1"), built("models:/b/2")
    looks: list[Look] = [
        [job(11, "building", phase="lock")],
        QueueUnavailable("the database is away"),
        QueueUnavailable("the database is away"),
        [job(12, "done", entry=b, worker="w2"), job(11, "building", phase="build")],
        [job(11, "done", entry=a, worker="w1")],
    ]
    board = Board(*looks)
    done = call(board, "--wait", "--report", "r.json")
    assert done.exit_code == 0, done.exception
    assert done.stdout == f"models:/b/2\t{b['image']}\nmodels:/a/1\t{a['image']}\n" and board.looks == []
    assert "[1/2] models:/b/2 built (2.5 s by w2)" in done.stderr
    assert "[2/2] models:/a/1 built (2.5 s by w1)" in done.stderr
    assert done.stderr.count("the database is away; asking on") == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["models"] == [{**a, "job": 11, "worker": "w1"}, {**b, "job": 12, "worker": "w2"}], "as they were put"


def test_what_failed_or_was_cancelled_is_told_at_the_end(call: Call) -> None:
    error = {"message": "it has no lock", "hint": None, "exit_code": 20}
    failed = {"model": "models:/a/1", "status": "failed", "seconds": 1.0, "error": error}
    done = call(Board([job(11, "failed", entry=failed), job(12, "cancelled")]), "--wait", "--json")
    assert isinstance(done.exception, SomeFailed) and "2 of 2 models have no image" in done.exception.message
    assert done.exception.hint == "kbuild queue retry 11 12"
    assert done.stdout == "", "only an image is an answer"
    assert "models:/a/1: it has no lock\n" in done.stderr and "models:/b/2: it was cancelled\n" in done.stderr
    done = call(Board([job(11, "done", entry=built("models:/a/1")), job(12, "cancelled")]), "--wait", "--json")
    assert "1 of 2 models" in str(done.exception)
    assert json.loads(done.stdout) == {**built("models:/a/1"), "job": 11, "worker": None}


def _without(error: Exception) -> Callable[[str, object], str]:
    def named(model: str, session: object) -> str:
        if model == "models:/a/1":
            raise error
        return model

    return named


def test_a_model_that_is_not_there_keeps_no_other_out_of_the_queue(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = ModelNotFound("models:/a/1: it has no such alias", hint="did you mean champion?")
    monkeypatch.setattr(queueing, "_named_for_all", _without(lacking))
    done = call(board := Board())
    assert [each.model for each in board.asked] == ["models:/b/2"] and done.stdout == "11\tmodels:/b/2\n"
    assert isinstance(done.exception, SomeFailed) and "1 of 2 models is not in the queue" in done.exception.message
    assert "models:/a/1: it has no such alias; did you mean champion?\n" in done.stderr
    assert str(done.exception.hint).startswith("the other 1 is")
    done = call(Board([JobState(id=11, model="models:/b/2", status="done", entry=built("models:/b/2"))]),
                "--wait", "--report", "r.json")  # fmt: skip
    assert isinstance(done.exception, SomeFailed) and "1 of 2 models have no image" in done.exception.message
    assert done.stderr.count("it has no such alias") == 1 and "kbuild queue retry" not in str(done.exception.hint)
    first, second = json.loads((tmp_path / "r.json").read_text())["models"]
    assert (first["status"], second["model"], second["status"]) == ("built", "models:/a/1", "failed")
    assert second["error"] == {"message": lacking.message, "hint": lacking.hint, "exit_code": 11}
    (tmp_path / "refs.txt").write_text("models:/a/1\n")
    done = call(board := Board())
    assert isinstance(done.exception, SomeFailed) and board.asked == [] and done.exception.hint is None


def test_a_tracking_server_that_is_away_keeps_all_out_of_the_queue(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "_named_for_all", _without(TrackingUnavailable("MLflow does not answer")))
    done = call(board := Board())
    assert isinstance(done.exception, TrackingUnavailable) and board.priority is None


def test_one_name_for_several_models_is_refused_before_a_job_is_put_there(call: Call) -> None:
    board = Board()
    done = call(board, "--tag", "shop:1")
    assert done.exit_code == 2 and "--tag shop:1 would be the name of 2 images" in done.stderr
    assert board.asked == [] and board.priority is None, "nothing was put there"


def test_the_hint_has_what_failed_tried_again_and_what_was_cancelled_where_there_is_any(call: Call) -> None:
    error = {"message": "models:/a/1: no such version", "hint": None, "exit_code": 11}
    failed = {"model": "models:/a/1", "status": "failed", "seconds": 1.0, "error": error}
    done = call(Board([job(11, "failed", entry=failed), job(12, "done", entry=built("models:/b/2"))]), "--wait")
    assert isinstance(done.exception, SomeFailed)
    assert done.exception.hint == "kbuild queue retry --failed has them tried again"
    assert "models:/a/1: no such version\n" in done.stderr and "models:/a/1: models:/a/1" not in done.stderr


def test_two_models_of_one_job_are_waited_for_once(call: Call) -> None:
    a = built("models:/a/1")
    done = call(Board([job(11, "done", entry=a)], same=True), "--wait", "--report", "r.json")
    assert done.exit_code == 0, done.exception
    assert done.stdout == f"models:/a/1\t{a['image']}\n" and "[1/1] models:/a/1 built" in done.stderr


def test_a_job_that_somebody_deleted_is_waited_for_no_longer(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "_GONE", 2)
    board = Board([], [], [job(11, "done", entry=built("models:/a/1"))])
    board.deleted = {12}
    done = call(board, "--wait")
    assert isinstance(done.exception, SomeFailed) and "1 of 2 models have no image" in done.exception.message
    assert "models:/b/2: its job was deleted" in done.stderr and board.looks == []


def test_in_a_log_it_is_said_now_and_then_what_is_built_and_no_more_than_once(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 6

    monkeypatch.setattr(queued, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr("kbuild.cli.show.time", SimpleNamespace(monotonic=lambda: now[0]))
    ended = [job(each, "done", entry=built("m")) for each in (11, 12)]
    looks: list[Look] = [[job(11, "building", phase="lock"), job(12, "building")]] * 4
    done = call(Board([], [], [], *looks, ended), "--wait")
    told = [line.split(" ", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("queue ")]
    assert told == [
        "waiting for a worker, 0/2 models",
        *["building models:/a/1 (lock), models:/b/2 (begins), 0/2 models"] * 2,
        "2 models, 42.0 s",
    ]


def test_of_many_that_are_built_the_first_four_are_named() -> None:
    live = [JobState(id=number, model=f"m{number}", status="building", phase="lock") for number in (6, 1, 2, 3, 4, 5)]
    assert queued._doing(live) == "building m1 (lock), m2 (lock), m3 (lock), m4 (lock) and 2 more"
    assert queued._doing([]) == "waiting for a worker"


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_builds_by_what_came_with_the_job(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, base and names are the job's; what this machine's project says of them does not count."""
    given: list[Any] = []
    error, result = BuildFailed("no room"), SimpleNamespace(reference="x")

    def build_image(request: Any, delivery: Any, tools: Any, *, reuse: bool, gates: Any) -> Any:
        given.append((request, delivery, tools, reuse, gates))
        if fails:
            raise error
        return result

    monkeypatch.setattr(queueing, "build_image", build_image)
    theirs = ProjectConfig(base="debian:trixie", labels=(("team", "shop"),))
    options = carry_options(theirs, ImageOptions(push=PUSH, no_cache=True, verify_cache=True, labels=("a=b",)))
    from kbuild.workflow import Tools

    tools = Tools(store=SimpleNamespace(), run=None, cache=tmp_path, phases=lambda _: nullcontext())  # type: ignore[arg-type]
    ours = ProjectConfig(base="debian:bookworm", labels=(("team", "mine"),), tag="mine:1", slim=True)
    session: Any = SimpleNamespace(config=ours, tools=tools, voice=None)
    asked = Asked(model="models:/churn/3", options=options)
    if fails:
        with pytest.raises(BuildFailed):
            build_asked(asked, session, "gates")  # type: ignore[arg-type]
    else:
        assert build_asked(asked, session, "gates") is result  # type: ignore[arg-type, comparison-overlap]
    ((request, delivery, used, reuse, gates),) = given
    assert (request.model, request.base, request.slim) == ("models:/churn/3", "debian:trixie", False)
    assert {*request.labels} == {("team", "shop"), ("a", "b")}
    assert (delivery.push, delivery.tag, delivery.once) == (PUSH, None, True)
    assert (reuse, used.verify_cache, gates) == (False, True, "gates")
    assert used.shared is not tools.shared, "a version may be built again under the same name"
    place = ImageReference.parse("registry.example/layers")
    assert used.sharing(place, "take") is tools.sharing(place, "take"), "one that failed is not asked for each job"


def test_what_a_job_built_is_audited_for_its_session_and_let_through_as_its_queue_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(queueing, "build_image", lambda request, *_, gates, **__: given.append((request, gates)))
    from kbuild.workflow import Tools

    tools = Tools(store=SimpleNamespace(), run=None, cache=tmp_path, phases=lambda _: nullcontext())  # type: ignore[arg-type]
    session: Any = SimpleNamespace(config=ProjectConfig(), tools=tools, voice=None)
    asked = Asked(model="models:/churn/3", options=carry_options(ProjectConfig(), ImageOptions(push=PUSH)))
    build_asked(asked, session, "gates", "audit")  # type: ignore[arg-type]
    ((request, gates),) = given
    assert (gates.inner, gates.session, gates.asked, gates.image) == ("gates", session, "audit", request)
