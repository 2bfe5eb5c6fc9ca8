import ast
import io
import re
import time
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.style import Style

from kbuild.cli.show import Show, amount, talk_options
from kbuild.progress import how_many


@pytest.mark.parametrize(
    ("done", "total", "unit", "text"),
    [
        (1_500_000, 3_000_000, "bytes", "1.5/3.0 MB"),
        (1_500_000, None, "bytes", "1.5 MB"),
        (3, 110, "wheels", "3/110 wheels"),
        (50_000, 240_000, "rows", "50,000/240,000 rows"),
        (3, None, "wheels", "3 wheels"),
    ],
)
def test_amounts(done: int, total: int | None, unit: str, text: str) -> None:
    assert amount(done, total, unit) == text


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [re.sub(r"[0-9.]+ s$", "N s", line) for line in captured.err.splitlines()]


def lock(show: Show) -> None:
    with show("lock") as progress:
        progress.note("resolving [numpy]")
        progress.tell("the index lags")
        progress.count(1, 2)
        progress.made("3 packages")
        progress.made("88 packages")


def test_of_a_phase_stays_one_line_and_what_it_told(capsys: pytest.CaptureFixture[str]) -> None:
    lock(Show())
    assert lines_of(capsys) == ["lock      the index lags", "lock      88 packages, N s"]


def test_verbose_keeps_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    lock(Show(verbose=True))
    assert lines_of(capsys) == ["lock      resolving [numpy]", "lock      the index lags", "lock      88 packages, N s"]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show(quiet=True)
    lock(show)
    show.say("44 MB")
    show.next({"kbuild run x": "serve it here"})
    assert lines_of(capsys) == []


def test_what_may_be_typed_next_stands_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Show().next({"kbuild run x": "serve it here", "kbuild audit x": "what is in it"})
    assert lines_of(capsys) == ["  kbuild run x    # serve it here", "  kbuild audit x  # what is in it"]


@pytest.mark.parametrize("variable", ["CI", "TF_BUILD"])  # what GitHub and GitLab set, and what Azure Pipelines does
def test_nobody_types_anything_next_in_a_job(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "true")
    show = Show()
    show.next({"kbuild run x": "serve it here"})
    show.say("44 MB, kept on this machine")
    assert lines_of(capsys) == ["44 MB, kept on this machine"]


def test_a_phase_that_made_nothing_and_took_no_time_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Show()("size"):
        pass
    assert lines_of(capsys) == []


def test_what_is_asked_for_again_and_is_there_is_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where looking for it took a moment, as it does of 205 MB on a busy machine."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("kbuild.cli.show.time", SimpleNamespace(monotonic=lambda: clock.now))
    show = Show()
    for made in ("88 packages", "88 packages", "3 packages"):
        with show("download") as progress:
            progress.made(made)
            clock.now += 0.3
    with show("record"):
        clock.now += 0.3
    assert lines_of(capsys) == ["download  88 packages, N s", "download  3 packages, N s"]


def test_a_log_is_told_now_and_then_that_the_work_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("kbuild.cli.show.time.monotonic", lambda: now[0])
    with Show()("stage") as progress:
        progress.note("installing 87 wheels")
        for now[0] in (9.0, 10.5, 12.0, 20.5):
            progress.count(int(now[0]), 87, "wheels")
        progress.made("87 packages")
    assert lines_of(capsys) == [
        "stage     installing 10/87 wheels",
        "stage     installing 20/87 wheels",
        "stage     87 packages, N s",
    ]


@pytest.mark.parametrize(("flag", "expected"), [("-q", 0), ("--quiet", 0), ("-v", 3), ("--verbose", 3), (None, 2)])
def test_the_command_says_how_much(flag: str | None, expected: int) -> None:
    command = talk_options(click.Command("c", callback=lambda: lock(Show())))
    done = CliRunner().invoke(command, [flag] if flag else [])
    assert done.exit_code == 0 and len(done.stderr.splitlines()) == expected


def test_seconds_of_a_phase_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("kbuild.cli.show.time", SimpleNamespace(monotonic=lambda: clock.now))
    show = Show(quiet=True)
    for seconds in (0.25, 1.5):
        with show("a"):
            clock.now += seconds
        clock.now += 10.0
    assert show.seconds == {"a": 1.75}


def test_a_phase_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show()
    with pytest.raises(ValueError), show("build"):
        raise ValueError
    assert "done" not in capsys.readouterr().err
    assert show.seconds == {}


def test_errors_are_said_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    Show(quiet=True).complain("churn: broken")
    assert lines_of(capsys) == ["churn: broken"]


def test_on_a_terminal_a_live_line_says_what_is_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rich draws it: spinner, phase, time, how much, what; of all that one line stays."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("kbuild.cli.show._terminal", lambda: console)
    show = Show()
    with show("download") as progress:
        progress.note("fetching numpy")
        progress.count(2_000_000, 250_000_000)
        progress.tell("the mirror lags")
        progress.made("88 packages")
        time.sleep(0.15)  # rich draws ten times a second
    show.say("that was all", style="green")
    show.complain("[not markup]")
    drawn = stream.getvalue()
    live = [part for part in re.split(r"[\r\n]", drawn) if "fetching numpy" in part and "2.0/250.0 MB" in part]
    assert live and "download" in live[-1]
    stays = drawn.rpartition("\x1b[?25h")[2]  # the cursor is shown again
    assert re.search(r"download  88 packages, \d\.\d s\n", stays), stays
    assert "that was all" in stays and "[not markup]" in stays and "fetching" not in stays
    assert "the mirror lags\n" in drawn


def test_of_a_phase_within_another_only_the_inner_one_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines that were drawn at once left the first of them on the screen."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr("kbuild.cli.show._terminal", lambda: console)
    show = Show()
    with show("unpack") as outer:
        time.sleep(0.15)
        with show("stage") as inner:
            begun = len(stream.getvalue())
            inner.made("3 packages")
            time.sleep(0.25)
            meanwhile = stream.getvalue()[begun:]
        time.sleep(0.15)
        outer.made("9 files")
    assert "stage" in meanwhile and "unpack" not in meanwhile
    assert re.search(r"stage     3 packages, \d\.\d s\n", stream.getvalue())
    assert re.search(r"unpack    9 files, \d\.\d s\n$", stream.getvalue())


def test_a_long_note_takes_no_room_from_what_stands_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, color_system=None)
    monkeypatch.setattr("kbuild.cli.show._terminal", lambda: console)
    with Show()("base") as progress:
        progress.note(f"http://mirror.example/debian bookworm\x1b[2J is signed by {'4CB50190207B4758' * 4}")
        time.sleep(0.15)
    live = [part for part in re.split(r"[\r\n]", stream.getvalue()) if "mirror.example" in part]
    assert live
    for part in live:
        line = part.removeprefix("\x1b[2K")
        assert re.match(r"\S base      0:00:0\d http://mirror.example/debian bookworm\\x…$", line), line
        assert len(line) <= 60


@pytest.mark.parametrize(
    ("environ", "there"), [({}, False), ({"FORCE_COLOR": "1"}, True), ({"TTY_COMPATIBLE": "1"}, True)]
)
def test_a_pipe_is_a_terminal_only_where_rich_is_told_so(
    environ: dict[str, str], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert (Show()._console is not None) is there
    assert Show(quiet=True)._console is None


def test_a_log_is_told_after_a_while_that_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("kbuild.cli.show.time", SimpleNamespace(monotonic=lambda: clock.now))
    with Show()("lock") as progress:
        for step in ("resolving", "resolving", "fetching"):
            clock.now += 9.9
            progress.note(step)
        clock.now += 10.0
        progress.count(3, 110, "packages")
        progress.count(4, 110, "packages")
    assert lines_of(capsys) == [
        "lock      resolving", "lock      fetching, 3/110 packages", "lock      done, N s"
    ]  # fmt: skip


def test_a_log_is_told_how_far_what_is_counted_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look has a new note, the time left, and then a count: the note alone tells nobody how far it is."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("kbuild.cli.show.time", SimpleNamespace(monotonic=lambda: clock.now))
    with Show()("score") as progress:
        for done in range(4):
            clock.now += 20
            progress.note(f"{4 - done} s left")
            progress.count(done, 4, "parts")
        clock.now += 20
        progress.note("putting them together")
        clock.now += 20
        progress.note("nearly there")
    told = [line.removeprefix("score     ") for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "4 s left",
        "3 s left, 1/4 parts",
        "2 s left, 2/4 parts",
        "1 s left, 3/4 parts",
        "nearly there",
        "done, 120.0 s",
    ]


def test_a_narrow_terminal_breaks_between_words_and_never_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    show = Show()
    show.say("verify    answers as the trained model did, within 1e-06 relative, 22.3 s")
    show.say("the image predicts what the trained model did")
    show.say("227 MB for linux/amd64, built by the native engine; kept on this machine")
    command = "kbuild run models:/a-name-that-is-longer@than-the-terminal"
    show.next({command: "serve it here", "kbuild list": "what there is"})
    show.next({"kbuild score [m] a": "markup of none"})
    show.complain("1,000 rows: they have other columns than the model takes", style="none")
    assert capsys.readouterr().err.splitlines() == [
        "verify    answers as the trained model",
        "          did, within 1e-06 relative,",
        "          22.3 s",
        "the image predicts what the trained",
        "  model did",
        "227 MB for linux/amd64, built by the",
        "  native engine; kept on this machine",
        f"  {command}",
        "      # serve it here",
        "  kbuild list",
        "      # what there is",
        "  kbuild score [m] a  # markup of none",
        "1,000 rows: they have other columns than",
        "  the model takes",
    ]


def test_a_long_command_moves_nothing_but_its_own_note(capsys: pytest.CaptureFixture[str]) -> None:
    show, pull = Show(), f"docker run registry.example/churn@sha256:{'0' * 64}"
    show.next({"kbuild run sha256:0": "here", pull: "anywhere", "kbuild audit sha256:0": "what is in it"})
    assert capsys.readouterr().err.splitlines() == [
        "  kbuild run sha256:0    # here",
        f"  {pull}  # anywhere",
        "  kbuild audit sha256:0  # what is in it",
    ]


@pytest.mark.slow
def test_every_style_is_one_that_rich_and_click_know() -> None:
    """A file or pipe is shown none, so that only a terminal would find out."""
    package = Path(__file__).parents[2] / "kbuild"
    rooms = [package / room for room in ("api", "cli", "doctor", "init", "verify", "workflow")]
    found = []
    for path in (each for room in rooms for each in room.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            for key in (key for key in getattr(call, "keywords", ()) if key.arg in ("style", "fg")):
                found += [(key.arg, each.value) for each in ast.walk(key.value) if isinstance(each, ast.Constant)]
    assert {"yellow"} <= {value for _, value in found}
    for kind, value in found:
        assert Style.parse(str(value)) if kind == "style" else click.style("x", fg=value)


@pytest.mark.parametrize(("count", "told"), [(0, "0 layers"), (1, "1 layer"), (12345, "12,345 layers")])
def test_one_of_a_kind_is_not_called_many(count: int, told: str) -> None:
    assert how_many(count, "layer") == told
