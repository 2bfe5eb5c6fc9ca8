"""The retry policy, asked of real sockets on this machine; only the pauses are shortened."""

from __future__ import annotations

import email.utils
import io
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier
from typing import ClassVar

import pytest
import requests
from listening import listening

from kbuild import http
from kbuild.audit.sources import osv_api
from kbuild.bounded import answers, in_time
from kbuild.bounded.held import HeldBytes
from kbuild.environment.index.download import make_session
from kbuild.environment.index.pip_network import TRUSTED, configure
from kbuild.errors import ConfigurationError, RegistryError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.client import RegistryClient

# A status and the headers of its answer; 0 breaks the connection, before an answer or in the middle of its body.
Answer = tuple[int, dict[str, str]]
GOOD: Answer = (200, {})


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PATIENCE", 1.5)


@contextmanager
def serving(*answers: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, and the last of them for ever; what it was sent."""
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            asked.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            status, headers = answers[min(len(asked), len(answers)) - 1]
            if status == 0 and not headers:
                return
            self.send_response(status or 200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"good" if status else b"go")

        do_GET = do_PUT = do_POST = do_DELETE = _do

        def log_message(self, *arguments: object) -> None: ...

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield f"{url}/", asked


def by_session(method: str, url: str, **options: object) -> requests.Response:
    with http.patient_session() as session:
        return session.request(method, url, timeout=2, **options)  # type: ignore[arg-type]


def by_other_means(method: str, url: str, **options: object) -> requests.Response:
    return http.ask_patiently(lambda: requests.request(method, url, timeout=2, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("ask", [by_session, by_other_means])
@pytest.mark.parametrize("status", [429, 502, 503, 504, 0])
def test_a_burst_passes(ask: Callable[..., requests.Response], status: int) -> None:
    with serving(*[(status, {})] * 4, GOOD) as (url, asked):
        assert ask("GET", url).text == "good"
    assert len(asked) == 5


def test_a_file_is_sent_whole_at_each_try(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with serving((503, {}), (0, {}), GOOD) as (url, asked), (tmp_path / "file").open("rb") as file:
        assert by_session("PUT", url, data=file).status_code == 200
    assert asked == [b"content"] * 3


@pytest.mark.parametrize("ask", [by_session, by_other_means])
def test_a_server_that_stays_busy_is_believed_in_time(ask: Callable[..., requests.Response]) -> None:
    begin = time.monotonic()
    with serving((503, {})) as (url, asked):
        assert ask("GET", url).status_code == 503
    assert len(asked) > 3 and 0.5 < time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("wait", "times"),
    [("1", 2), ("3600", 1), (email.utils.formatdate(time.time() + 86400, usegmt=True), 1), ("soon", 2), ("-1", 2)],
    # Not by its value: two workers would name the date otherwise.
    ids=["seconds", "an hour", "tomorrow", "no time", "past"],
)
def test_retry_after_is_honoured_where_it_ends_in_time(wait: str, times: int) -> None:
    begin = time.monotonic()
    with serving((503, {"Retry-After": wait}), GOOD) as (url, asked):
        by_session("GET", url)
    assert len(asked) == times
    assert (time.monotonic() - begin >= 1) == (wait == "1")


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "1"}], ids=["plain", "retry-after"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 501, 507])
def test_other_answers_are_taken_as_they_are(status: int, headers: dict[str, str]) -> None:
    with serving((status, headers), GOOD) as (url, asked):
        assert by_session("GET", url).status_code == status
    assert len(asked) == 1


@pytest.mark.parametrize("ask", [by_session, by_other_means])
def test_a_fault_of_the_server_may_pass_but_is_believed_soon(
    ask: Callable[..., requests.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "PATIENCE", 60.0)
    monkeypatch.setattr(http, "_PASSING", 5.0)
    with serving((500, {}), (500, {}), GOOD) as (url, asked):
        assert ask("GET", url).text == "good"
    assert len(asked) == 3
    monkeypatch.setattr(http, "_PASSING", 1.0)
    begin = time.monotonic()
    with serving((500, {})) as (url, asked):
        assert ask("GET", url).status_code == 500
    assert len(asked) > 1 and time.monotonic() - begin < 5


def test_what_may_not_be_done_twice_is_not() -> None:
    with serving((503, {}), GOOD) as (url, asked):
        assert by_session("DELETE", url).status_code == 503
    assert len(asked) == 1


@pytest.mark.parametrize("ask", [by_session, by_other_means])
def test_a_server_that_is_not_there_gets_a_few_seconds(ask: Callable[..., requests.Response]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        begin = time.monotonic()
        with pytest.raises(requests.ConnectionError) as caught:
            ask("GET", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert time.monotonic() - begin < 1.4
    assert http.is_of_transport(caught.value) and http.reason_of(caught.value) == "Connection refused"


def test_a_name_that_nobody_knows_and_an_answer_that_takes_too_long_are_not_asked_for_again() -> None:
    with pytest.raises(requests.ConnectionError):
        by_session("GET", "http://kbuild.invalid/")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        begin = time.monotonic()
        with pytest.raises(requests.RequestException):
            by_session("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - begin < 3.9


def test_a_body_that_breaks_off_is_read_again() -> None:
    with serving((0, {"X": "half"}), (0, {"X": "half"}), GOOD) as (url, asked), http.patient_session() as session:

        def read() -> bytes:
            with session.get(url, stream=True, timeout=2) as answer:
                return b"".join(answer.iter_content(1))

        assert http.work_patiently(read) == b"good"
    assert len(asked) == 3


def test_each_thread_has_a_session_of_its_own_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[requests.Session] = []
    monkeypatch.setattr(requests.Session, "close", lambda self: closed.append(self))
    together = Barrier(3)  # or one thread could do the work of all

    def ask(_: int) -> requests.Session:
        together.wait(10)
        return sessions.mine()

    with http.ThreadSessions(requests.Session) as sessions:
        assert sessions.mine() is sessions.mine()
        with ThreadPoolExecutor(3) as pool:
            made = {*pool.map(ask, range(3)), sessions.mine()}
        assert (len(made), closed) == (4, [])
    assert set(closed) == made


def test_a_cause_that_is_its_own_ends() -> None:
    error, other = requests.ConnectionError("outer"), OSError("inner")
    error.__cause__, other.__cause__ = other, error
    assert http.reason_of(error) == "inner"


class Endless(BaseHTTPRequestHandler):
    """Answers without end; ``/moved`` while it says where to go on."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 16))

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("path", ["/", "/moved"])
def test_an_answer_without_end_is_cut_off(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LARGEST", 1 << 20)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    too_much = pytest.raises(requests.RequestException, match="more than 1 MiB")
    with listening(server) as url, http.patient_session() as session, too_much:
        session.get(f"{url}{path}", timeout=5)


def _registry(host: str) -> requests.Session:
    return RegistryClient(ImageReference.parse(f"{host}/a/b:1"))._session


@pytest.mark.parametrize("make", [lambda _: make_session({}), _registry])
def test_sessions_of_indexes_and_registries_cut_it_off_too(
    make: Callable[[str], requests.Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "LARGEST", 1 << 20)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    too_much = pytest.raises(requests.RequestException, match="more than 1 MiB")
    with listening(server) as url, make(url.removeprefix("http://")) as session, too_much:
        session.get(url, timeout=5)


def test_nobody_makes_a_session_without_bounds() -> None:
    """But the webhooks', which read the beginning of an answer alone, and what asks the image's own server. The
    registry's has bounded adapters, as the test above shows."""
    root = Path(http.__file__).parent
    made = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "requests.Session()" in path.read_text("utf-8")
    }
    session = http.bounded_session()
    configure(session, {TRUSTED: "pypi.example"})
    assert isinstance(session.get_adapter("https://pypi.example/simple/"), answers.BoundedAdapter)
    assert made == {
        "image/registry/client.py",
        "serving/pages/docs.py",
        "trigger/send.py",
        "verify/scoring.py",
    }


def test_a_server_without_end_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not for one long page among others, nor for longer than one answer may take."""
    monkeypatch.setattr(answers, "LARGEST", 1 << 20)
    asked: list[str] = []

    class Some(Endless):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/good":
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Some)
    server.daemon_threads = True
    with listening(server) as url, http.bounded_session() as session:

        def ask(path: str) -> None:
            with pytest.raises(in_time.NoEnd, match="more than 1 MiB"):
                session.get(f"{url}{path}", timeout=5)

        for path in ("/1", "/2"):
            ask(path)
        session.get(f"{url}/good", timeout=5)
        for path in ("/3", "/4", "/5", "/6", "/7"):
            ask(path)
        assert asked == ["/1", "/2", "/good", "/3", "/4", "/5"]
        monkeypatch.setattr(in_time, "LONGEST_WAIT", 0.5)
        time.sleep(0.6)
        session.get(f"{url}/good", timeout=5)


def test_many_large_answers_hold_no_more_than_a_few_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads that each hold the most would hold eight times as much."""
    monkeypatch.setattr(answers, "LARGEST", 8 << 20)
    monkeypatch.setattr(answers, "_HELD", HeldBytes(10 << 20))
    monkeypatch.setattr(answers, "_SMALL", 1 << 18)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True

    def ask(url: str) -> None:
        with http.bounded_session() as session, pytest.raises(requests.RequestException, match="more than 8 MiB"):
            session.get(url, timeout=30)

    with listening(server) as url, ThreadPoolExecutor(8) as pool:
        tracemalloc.start()
        try:
            for _ in pool.map(ask, [url] * 8):
                pass
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 30 << 20


def test_a_slow_large_answer_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_SMALL", 1 << 10)
    begun, over = threading.Event(), threading.Event()

    class Half(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 17))
            self.end_headers()
            self.wfile.write(bytes(1 << 16))
            if self.path == "/slow":
                begun.set()
                over.wait(30)
            with suppress(OSError):
                self.wfile.write(bytes(1 << 16))

        def log_message(self, *args: object) -> None:
            pass

    def ask(url: str) -> int:
        with http.bounded_session() as session:
            return len(session.get(url, timeout=30).content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Half)
    server.daemon_threads = True
    with listening(server) as url, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(ask, f"{url}/slow")
        begun.wait(10)
        assert pool.submit(ask, url).result(timeout=10) == 1 << 17
        assert not slow.done()
        over.set()
        assert slow.result(timeout=10) == 1 << 17


def test_who_began_first_is_given_room_and_all_come_to_an_end() -> None:
    room, most, held = HeldBytes(10), 0, dict.fromkeys(range(6), 0)
    lock = threading.Lock()

    def work(whose: int) -> None:
        nonlocal most
        for _ in range(8):
            room.take(whose, 1)
            with lock:
                held[whose] += 1
                most = max(most, sum(held.values()))
        with lock:
            held[whose] = 0
        room.leave(whose)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, whose) for whose in range(6)]:
            done.result(timeout=20)
    assert most <= 10 + 8


@pytest.mark.parametrize("status", [503, 500])
def test_what_is_asked_for_again_is_not_read_to_its_end(status: int) -> None:
    class Busy(Endless):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status if len(asked) == 1 else 200)
            self.send_header("Content-Length", str(1 << 40 if len(asked) == 1 else 4))
            self.end_headers()
            with suppress(OSError):
                while len(asked) == 1:
                    self.wfile.write(bytes(1 << 16))
                self.wfile.write(b"good")

    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    server.daemon_threads = True
    with listening(server) as url, http.patient_session() as session:
        assert session.get(url, timeout=5).text == "good"


class Slow(BaseHTTPRequestHandler):
    """A byte now and then, which no socket's own time limit minds; ``sent`` counts them."""

    sent: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/sized":
            self.send_header("Content-Length", "1000000")
        self.end_headers()
        with suppress(OSError):
            for number in range(10_000):
                self.wfile.write(b"x")
                self.sent.append(number)
                time.sleep(0.02)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("path", ["/sized", "/open"])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_drips_is_cut_off(path: str, streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "LONGEST_WAIT", 0.3)
    Slow.sent.clear()
    too_slow = pytest.raises(in_time.NoEnd, match=rf"within {'0.3' if streamed else '0.1'} s")
    slow = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    with listening(slow) as url, http.patient_session() as session, too_slow:
        answer = session.get(f"{url}{path}", timeout=5, stream=streamed)
        assert streamed, "as a whole it is read at once"
        for _ in in_time.steady(answer, answer.iter_content(1 << 20)):
            pass
    assert len(Slow.sent) < 10_000, "the server saw that nobody reads on"


class Paced(BaseHTTPRequestHandler):
    """A piece of so many bytes ten times a second, as ``/SIZE`` says, or all at once."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for _ in range(200):
                self.wfile.write(bytes(int(self.path[1:])))
                time.sleep(0.1)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(("pace", "seconds"), [(10 << 10, "0.9"), (30 << 10, "1.8")])
def test_an_answer_gets_time_by_its_pace(pace: int, seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What drips gets a third, see above; 100 KiB a second get one wait, and 300 get two."""
    monkeypatch.setattr(in_time, "LONGEST_WAIT", 0.9)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Paced)
    server.daemon_threads = True
    with (
        listening(server) as url,
        http.bounded_session() as session,
        pytest.raises(in_time.NoEnd, match=f"within {seconds} s"),
    ):
        session.get(f"{url}/{pace}", timeout=5)


def test_time_in_which_an_answer_is_used_is_not_its_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "LONGEST_WAIT", 0.3)
    for pieces in (
        in_time.steady(requests.Response(), iter([b"a", b"b"])),
        in_time.in_time(requests.Response(), iter([b"a", b"b"]), in_time.Pace(2)),
    ):
        assert [time.sleep(0.5) or piece for piece in pieces] == [b"a", b"b"]


def test_a_large_answer_whose_pieces_come_in_time_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed, it may take longer than a piece may."""
    monkeypatch.setattr(in_time, "LONGEST_WAIT", 1.0)
    answer, pieces = requests.Response(), [b"a", b"b", b"c"]

    def slowly() -> Iterator[bytes]:
        for piece in pieces:
            time.sleep(0.4)
            yield piece

    assert list(in_time.steady(answer, slowly())) == pieces


def test_a_slow_line_gets_the_seconds_that_the_environment_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off after one second, with what to type; the same answer comes to its end in five."""
    pieces, answer = [b"a", b"b"], requests.Response()
    answer.raw = io.BytesIO()

    def slowly() -> Iterator[bytes]:
        for piece in pieces:
            time.sleep(1.2)
            yield piece

    monkeypatch.setenv("KBUILD_LONGEST_WAIT", "1")
    with pytest.raises(in_time.NoEnd, match=r"within 1 s; on a slow line set KBUILD_LONGEST_WAIT=10$"):
        list(in_time.steady(answer, slowly()))
    monkeypatch.setenv("KBUILD_LONGEST_WAIT", "5")
    assert list(in_time.steady(answer, slowly())) == pieces


@pytest.mark.parametrize("stated", ["soon", "0", "-5", "nan", "inf", "1e9"])
def test_what_is_not_a_number_of_seconds_is_refused(stated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_LONGEST_WAIT", stated)
    with pytest.raises(ConfigurationError, match=f"'{stated}' is not a number of seconds from 1 to 86400"):
        in_time.longest_wait()


ASKED: dict[str, Callable[[str], object]] = {
    "a registry": lambda url: RegistryClient(ImageReference.parse(f"{url.split('/')[2]}/a/b")).check_access(),
    "an index's files": lambda url: make_session({}).get(url),
    "advisories": lambda url: osv_api._session().post(url),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("after", ["3600", "Fri, 31 Dec 2117 23:59:59 GMT", "soon"])
@pytest.mark.parametrize("asked", ASKED)
def test_nobody_is_waited_for_as_long_as_he_likes(
    asked: str, after: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9110, 10.2.3: Retry-After may name any time. What is longer than a minute is told, not slept through."""
    slept: list[float] = []
    monkeypatch.setattr(http, "PATIENCE", 60)
    monkeypatch.setattr(time, "sleep", slept.append)
    with serving((status, {"Retry-After": after})) as (url, sent), suppress(RegistryError):
        ASKED[asked](url)
    assert 0 < sum(slept) <= 60 and len(sent) > 1


def test_a_short_wait_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(http, "PATIENCE", 60)
    monkeypatch.setattr(time, "sleep", slept.append)
    with serving((429, {"Retry-After": "7"}), GOOD) as (url, _):
        ASKED["a registry"](url)
    assert slept == [7]
