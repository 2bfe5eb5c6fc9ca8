import http.server
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from listening import listening

from kbuild.answers import DEFAULT, EXACT, Tolerance
from kbuild.docs import more_about
from kbuild.errors import ContainerFailed, NothingToAsk, RuntimeUnavailable, VerificationFailed
from kbuild.progress import Silent
from kbuild.verify import verify_image
from kbuild.verify.golden import VerificationReport, verify_predictions
from kbuild.verify.scoring import ServerAnswer, post_invocations, wait_until_ready


@dataclass
class FakeImage:
    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    running: bool = True
    wrote: str = "first\nImportError: no module named x\n"
    remote: bool = False

    def describe(self) -> str:
        return "a thread"

    def alive(self) -> bool:
        return self.running

    def logs(self) -> str:
        return self.wrote

    def log_command(self) -> str:
        return "tail -f log"

    def read_file(self, path: str) -> bytes | None:
        return self.files.get(path)

    def stop(self) -> None:
        self.running = False


class Doubler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "inputs" not in asked:
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b'{"error_code": "BAD_REQUEST"}')
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"predictions": [2 * x for x in asked["inputs"]]}).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def image() -> Iterator[FakeImage]:
    with listening(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Doubler)) as url:
        yield FakeImage(url)


def check(image: FakeImage, prediction: str | None = "p.json", tolerance: Tolerance = DEFAULT) -> VerificationReport:
    report = verify_predictions(
        image, model_path="/opt/model", example="x.json", prediction=prediction, tolerance=tolerance, own=DEFAULT,
        timeout=60,
    )  # fmt: skip
    report.check()
    return report


def test_equal_predictions_pass(image: FakeImage) -> None:
    image.files = {"/opt/model/x.json": b'{"inputs": [1.5]}', "/opt/model/p.json": b'{"predictions": [3.0]}'}
    report = check(image)
    assert report.compared and report.prediction == report.expected == {"predictions": [3.0]}


def test_the_smallest_difference_fails_where_exactness_is_asked_for_and_is_named(image: FakeImage) -> None:
    image.files = {
        "/opt/model/x.json": b'{"inputs": [1, 1.5]}',
        "/opt/model/p.json": b'{"predictions": [2, 3.0000000000000004]}',
    }
    with pytest.raises(
        VerificationFailed, match=r"predictions\[1\]: expected 3.0000000000000004, got 3.0, off by 4.44e-16"
    ):
        check(image, tolerance=EXACT)
    report = check(image)
    assert report.largest is not None and report.largest.path == "predictions[1]"
    assert report.largest.absolute == 2**-51


def test_a_prediction_that_is_off_by_a_thousandth_fails_and_says_by_how_much(image: FakeImage) -> None:
    image.files = {"/opt/model/x.json": b'{"inputs": [1.5]}', "/opt/model/p.json": b'{"predictions": [3.003]}'}
    wanted = r"predictions\[0\]: expected 3\.003, got 3\.0, off by 0\.003 \(0\.000999 relative\)"
    with pytest.raises(VerificationFailed, match=wanted):
        check(image)
    wide = check(image, tolerance=Tolerance(relative=1e-2))
    assert wide.largest and wide.verdict == "tolerated: within 0.01 relative and 1e-09 absolute"


def test_without_a_recorded_prediction_an_answer_is_enough_and_said_so(image: FakeImage) -> None:
    image.files = {"/opt/model/x.json": b'{"inputs": [1]}'}
    assert not check(image).compared
    assert not check(image, None).compared


def test_an_error_answer_fails_with_its_text(image: FakeImage) -> None:
    image.files = {"/opt/model/x.json": b"{}"}
    with pytest.raises(VerificationFailed, match=r"400.*BAD_REQUEST"):
        check(image)


@pytest.mark.parametrize(("body", "said"), [(b"no\xff \n way", "no\ufffd way"), (b"x" * 600, "x" * 500), (b"", "")])
def test_an_error_answer_is_told_whatever_its_bytes_are(
    image: FakeImage, monkeypatch: pytest.MonkeyPatch, body: bytes, said: str
) -> None:
    image.files = {"/opt/model/x.json": b"{}"}
    answer = ServerAnswer(status=500, body=body)
    monkeypatch.setattr("kbuild.verify.golden.post_invocations", lambda *_, **__: answer)
    with pytest.raises(VerificationFailed) as caught:
        check(image)
    assert caught.value.message == f"/invocations answered 500 to the model's input example: {said}"


def test_what_a_model_raised_is_told_which_its_answer_keeps_back(image: FakeImage) -> None:
    """As the log of kbuild's server has it, a line of JSON an event (docs/serving.md)."""
    image.files = {"/opt/model/x.json": b"{}"}
    trace = 'Traceback (most recent call last):\n  File "x.py", line 7, in predict\nRuntimeError: it always fails\n'
    before = "ValueError: another request"
    lines = [
        {"traceback": before},
        {"message": "the model failed", "traceback": trace},
        {"message": "warm"},
        {"traceback": 7},
        [1],
        "text",
    ]
    image.wrote = "\n".join(["no JSON {", *map(json.dumps, lines), ""])
    with pytest.raises(VerificationFailed, match=r"BAD_REQUEST.*; in the image: RuntimeError: it always fails$"):
        check(image)


def test_an_answer_is_waited_for_as_long_as_was_said(image: FakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def post(url: str, body: bytes, *, timeout: float) -> Any:
        asked.append(timeout)
        return SimpleNamespace(status=200, body=b"[1]")

    monkeypatch.setattr("kbuild.verify.golden.post_invocations", post)
    image.files = {"/opt/model/x.json": b"{}"}
    golden = {"model_path": "/opt/model", "example": "x.json", "prediction": None}
    report = verify_predictions(image, **golden, tolerance=DEFAULT, own=DEFAULT, timeout=7.0)  # type: ignore[arg-type]
    assert asked == [7.0]
    # Nothing is recorded that it would have to keep to.
    assert (report.compared, report.verdict, report.kept, report.fault) == (False, "answered", True, None)


def test_without_an_example_there_is_nothing_to_ask(image: FakeImage) -> None:
    with pytest.raises(VerificationFailed, match="no input example"):
        check(image)


def test_ready_is_when_health_answers(image: FakeImage) -> None:
    wait_until_ready(image, timeout=5, progress=Silent())


def test_a_proxy_is_not_asked_for_what_is_here(image: FakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    image.files = {"/opt/model/x.json": b'{"inputs": [1]}'}
    wait_until_ready(image, timeout=5, progress=Silent())
    assert check(image).prediction == {"predictions": [2]}


def test_a_container_of_another_machine_is_no_broken_image(image: FakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(url: str, *, remote: bool) -> None:
        ticks = iter(range(1000))
        there = FakeImage(url, remote=remote)
        clock = lambda: float(next(ticks))  # noqa: E731
        wait_until_ready(there, timeout=100, progress=Silent(), option="--patience", clock=clock, sleep=lambda _: None)

    with pytest.raises(RuntimeUnavailable, match="its Docker is of another machine"):
        wait("http://127.0.0.1:1", remote=True)
    with pytest.raises(ContainerFailed, match="within 100 s") as refused:
        wait("http://127.0.0.1:1", remote=False)
    assert "--patience SECONDS" in str(refused.value.hint)
    # One whose port was there once is of a machine that is reached, however long it takes.
    reached = iter([True])
    monkeypatch.setattr("kbuild.verify.scoring._is_reached", lambda url: next(reached, False))
    with pytest.raises(ContainerFailed, match="within 100 s"):
        wait("http://127.0.0.1:1", remote=True)


def test_whoever_waits_can_be_stopped() -> None:
    class Stopped(Silent):
        def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_until_ready(FakeImage("http://127.0.0.1:1"), timeout=100, progress=Stopped())


def test_an_image_that_stopped_is_reported_with_its_last_words() -> None:
    with pytest.raises(ContainerFailed, match=r"stopped before it answered.*no module named x"):
        wait_until_ready(FakeImage("http://127.0.0.1:1", running=False), timeout=5, progress=Silent())


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("one\ntwo\n\n  three \n\nfour\n\n", "two / three / four"),
        ("one\n", "one"),
        (" \n\n", "it wrote nothing"),
        ("x" * 700, "x" * 600),
    ],
)
def test_the_last_words_are_the_last_three_lines_that_say_something(log: str, words: str) -> None:
    stopped: Any = SimpleNamespace(alive=lambda: False, logs=lambda: log, url="http://u", describe=lambda: "bwrap")
    with pytest.raises(ContainerFailed) as caught:
        wait_until_ready(stopped, timeout=5, progress=Silent())
    assert caught.value.message == f"the image stopped before it answered: {words}"


def test_a_library_of_the_system_that_the_base_lacks_is_named() -> None:
    """As the loader of glibc tells it of rasterio, whose wheel takes libexpat from the system."""
    words = "kbuild.serving: ImportError: libexpat.so.1: cannot open shared object file: No such file or directory\n"
    stopped = FakeImage("http://127.0.0.1:1", running=False, wrote=words)
    with pytest.raises(ContainerFailed, match=r"libexpat\.so\.1") as caught:
        wait_until_ready(stopped, timeout=5, progress=Silent())
    assert "takes libexpat.so.1 from the system" in str(caught.value.hint) and "--base" in str(caught.value.hint)
    assert more_about(caught.value.message, caught.value.exit_code) == "troubleshooting#cannot-open-shared-object-file"


def test_an_image_that_never_answers_is_given_up() -> None:
    ticks = iter(range(100))
    with pytest.raises(ContainerFailed, match="within 3 s"):
        wait_until_ready(
            FakeImage("http://127.0.0.1:1"),
            timeout=3,
            progress=Silent(),
            clock=lambda: float(next(ticks)),
            sleep=lambda _: None,
        )


@pytest.mark.parametrize("answers", [True, False])
def test_an_image_is_stopped_whatever_it_answered(
    image: FakeImage, answers: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    described = {"saved_input_example_info": {"serving_input_path": "x.json"}}
    described |= {"metadata": {"kbuild": {"prediction": "p.json", "tolerance": {"rtol": 0.5}}}}
    own = b'{"predictions": [2.5]}' if answers else b'{"predictions": [99.0]}'
    image.files = {"/opt/model/MLmodel": json.dumps(described).encode(), "/opt/model/p.json": own}
    image.files["/opt/model/x.json"] = b'{"inputs": [1.5]}'
    monkeypatch.setattr(verify_image, "start_image", lambda *_, **__: image)
    given: dict[str, Any] = {"cache": tmp_path, "timeout": 5, "progress": Silent()}
    stated: list[Tolerance] = []
    report = verify_image.verify_image(None, None, **given, choose=lambda own: stated.append(own) or own)
    assert report.compared and stated[0].relative == 0.5
    assert report.verdict == ("passed" if answers else "failed")
    assert not image.running


def test_an_answer_that_does_not_come_is_told() -> None:
    with pytest.raises(ContainerFailed, match=r"/invocations does not answer: .*refused"):
        post_invocations("http://127.0.0.1:1", b"{}", timeout=1)


@pytest.mark.parametrize("option", ["--timeout", "--verify-timeout"])
def test_what_gives_it_more_time_is_named(option: str) -> None:
    ticks = iter(range(100))
    with pytest.raises(ContainerFailed) as caught:
        wait_until_ready(
            FakeImage("http://127.0.0.1:1"), timeout=3, progress=Silent(), option=option,
            clock=lambda: float(next(ticks)), sleep=lambda _: None,
        )  # fmt: skip
    assert caught.value.hint == f"a large model may need longer: {option} SECONDS"


def asked(image: FakeImage, **given: Any) -> VerificationReport:
    whole = {"example": "x.json", "prediction": "p.json", "tolerance": DEFAULT, "own": DEFAULT, "timeout": 60, **given}
    return verify_predictions(image, model_path="/opt/model", **whole)  # type: ignore[arg-type]


def test_what_is_wrong_with_an_answer_is_told_with_what_may_be_done(image: FakeImage) -> None:
    with pytest.raises(NothingToAsk) as nothing:
        asked(image, example=None)
    assert nothing.value.message == "the model stores no input example, so there is nothing to ask it"
    assert nothing.value.hint == "log it with input_example=…; kbuild's hook does"
    image.files = {"/opt/model/x.json": b'{"inputs": [1.0]}', "/opt/model/p.json": b'{"predictions": [2.0005]}'}
    wide, near = Tolerance(relative=0.1, relative_single=0.1), asked(image)
    with pytest.raises(VerificationFailed) as far:
        near.check()
    assert far.value.hint == "kbuild verify --rtol and --atol allow more, where that is the model's own noise"
    for recorded in (b"[2]", b'["2.0"]', b"[NaN]", b"[Infinity]", b"[2.0, 2.0]", b"[true]"):
        image.files["/opt/model/p.json"] = b'{"predictions": ' + recorded + b"}"
        with pytest.raises(VerificationFailed) as never:
            asked(image).check()
        assert "--rtol" not in str(never.value.hint) and "no tolerance covers" in str(never.value.hint)
    image.files["/opt/model/p.json"] = b'{"predictions": [2.0005]}'
    # Asked for more exactness than the model is recorded with.
    kept = asked(image, own=wide)
    assert kept.verdict == "passed"
    with pytest.raises(VerificationFailed) as exact:
        kept.check()
    assert exact.value.hint == f"the model's own tolerance is {wide}, and that it keeps"
    assert asked(image, tolerance=wide).verdict == f"tolerated: {wide}" and near.verdict == "failed"
