"""The page of a queue and its metrics: what is shown, and that nothing in it is anybody's code."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections.abc import Collection, Iterator

import pytest
import requests

from kbuild.errors import QueueUnavailable
from kbuild.workflow.fleet.receiver import listening
from kbuild.workflow.queue.page import SHOWN, make_metrics, make_page, what_of
from kbuild.workflow.queue.site import make_site
from kbuild.workflow.queue.states import Figures, JobState, Status

JOBS = [
    JobState(id=3, model="models:/<script>alert(1)</script>/1", status="waiting", priority=5),
    JobState(id=2, model="models:/churn/2", status="failed", worker="w1", entry={"error": {"message": "no <model>"}}),
    JobState(id=1, model="models:/churn/1", status="building", worker="w2", phase="stage", note="six", seconds=2.5),
]
FIGURES = Figures(
    jobs={"waiting": 1, "building": 1, "done": 0, "failed": 1, "cancelled": 0},
    workers=2,
    oldest=90.0,
    builds=4,
    seconds=10.0,
    lost=1,
)


class Board:
    away = False

    def figures(self) -> Figures:
        if self.away:
            raise QueueUnavailable("the queue postgresql://h/d does not answer: no")
        return FIGURES

    def jobs(
        self, ids: Collection[int] | None = None, *, statuses: Collection[Status] | None = None, limit: int = 1_000_000
    ) -> list[JobState]:
        assert limit == SHOWN, "of a long life's jobs a page has the newest"
        return [each for each in JOBS if statuses is None or each.status in statuses]


@pytest.fixture(scope="module")
def board() -> Board:
    return Board()


@pytest.fixture(scope="module")
def site(board: Board) -> Iterator[str]:
    with listening(make_site(board, "postgresql://h/d"), ("127.0.0.1", 0)) as place:
        yield f"http://{place}"


def test_the_page_shows_jobs_and_has_no_script(site: str) -> None:
    answer = requests.get(f"{site}/", timeout=10)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    style = re.search(r"<style>(.*?)</style>", answer.text, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none';")
    assert "script-src" not in policy and "<script" not in answer.text
    assert "models:/&lt;script&gt;alert(1)" in answer.text and "no &lt;model&gt;" in answer.text
    assert "stage six" in answer.text and "2 workers" in answer.text and "2.5 s a model" in answer.text


def test_jobs_of_one_status_are_shown_alone(site: str) -> None:
    shown = requests.get(f"{site}/?status=failed", timeout=10).text
    assert "models:/churn/2" in shown and "models:/churn/1" not in shown
    refused = requests.get(f"{site}/?status=%3Cb%3E", timeout=10)
    assert refused.status_code == 400 and "<b>" not in refused.text


def test_nothing_can_be_sent_to_it(site: str) -> None:
    assert requests.post(f"{site}/", timeout=10).status_code == 405


def test_a_database_that_is_away_is_said(site: str, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "away", True)
    for path in ("/", "/metrics"):
        answer = requests.get(f"{site}{path}", timeout=10)
        assert answer.status_code == 503 and "does not answer" in answer.text


def test_metrics_are_of_prometheus_format(site: str) -> None:
    answer = requests.get(f"{site}/metrics", timeout=10)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = make_metrics(FIGURES).splitlines()
    assert answer.text.splitlines() == lines
    samples = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(\{[a-z]+="[a-z]+"\})? [0-9.e+]+', line) for line in samples)
    assert 'kbuild_queue_jobs{status="failed"} 1' in samples and "kbuild_queue_oldest_waiting_seconds 90" in samples
    # A counter only ever increases (Prometheus' docs, "Metric types"); a deleted job takes its figures along.
    assert {line.split()[3] for line in lines if line.startswith("# TYPE ")} == {"gauge"}
    assert not any("_total" in line for line in lines)
    named = {line.split()[2] for line in lines if line.startswith("# TYPE ")}
    assert named == {re.split("[{ ]", line)[0] for line in samples}


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (JobState(id=1, model="m", status="building", cancelling=True, phase="stage"), "is being cancelled; stage"),
        (JobState(id=1, model="m", status="building"), "begins"),
        (JobState(id=1, model="m", status="done", entry={"status": "reused", "image": "x@1"}), "reused x@1"),
        (
            JobState(
                id=1,
                model="m",
                status="waiting",
                failures=2,
                again=datetime.datetime(2026, 11, 1, 14, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
                entry={"error": {"message": "away"}},
            ),
            "attempt 2 failed, again at 12:30:00 UTC: away",
        ),
        (JobState(id=1, model="m", status="waiting", lost=1), "lost 1 worker"),
    ],
)
def test_what_a_job_comes_to_is_one_line(job: JobState, says: str) -> None:
    assert what_of(job) == says


@pytest.mark.parametrize(("count", "told"), [(1, False), (199, False), (200, True)])
def test_that_there_may_be_more_jobs_than_are_shown_is_said(count: int, told: bool) -> None:
    jobs = [JobState(id=number, model="m", status="done") for number in range(count)]
    assert (b"the newest 200" in make_page("q", FIGURES, jobs, None)) is told
    assert make_page("q", FIGURES, jobs, None).count(b">done</td>") == count


@pytest.mark.parametrize(
    ("status", "error", "wrong"),
    [("failed", "no room", True), ("waiting", "away", True), ("waiting", None, False), ("done", None, False),
     ("building", "away", False)],
)  # fmt: skip
def test_what_went_wrong_stands_out(status: Status, error: str | None, wrong: bool) -> None:
    """Of a job that is built again what its last attempt said is past."""
    entry = None if error is None else {"error": {"message": error}}
    page = make_page("q", FIGURES, [JobState(id=7, model="m", status=status, entry=entry)], None)
    assert (b"what wrong" in page) is wrong


def test_each_cell_has_the_title_that_a_phone_shows_before_it() -> None:
    page = make_page("q", FIGURES, [JobState(id=7, model="m", status="failed")] * 2, None).decode()
    titles = re.findall(r"<th scope=col>(.*?)</th>", page)
    assert len(titles) > 5
    rows = re.findall(r"<tr>(<td.*?)</tr>", page)
    assert [re.findall(r"<td[^>]* data-head='([^']*)'", row) for row in rows] == [titles] * 2
    assert all(row.count("<td") == len(titles) and "class='what wrong'" in row for row in rows)
