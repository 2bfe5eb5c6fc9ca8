import pytest

from kbuild.cli.show import Show, amount


@pytest.mark.parametrize(
    ("done", "total", "unit", "text"),
    [
        (1_500_000, 3_000_000, "bytes", "1.5/3.0 MB"),
        (1_500_000, None, "bytes", "1.5 MB"),
        (3, 110, "wheels", "3/110 wheels"),
        (3, None, "wheels", "3 wheels"),
    ],
)
def test_amounts(done: int, total: int | None, unit: str, text: str) -> None:
    assert amount(done, total, unit) == text


def test_without_a_terminal_every_note_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show()
    with show("lock") as progress:
        progress.note("resolving [numpy]")
        progress.count(1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "lock      resolving [numpy]"
    assert lines[1].startswith("lock      done in ")
    assert len(lines) == 2


def test_seconds_of_a_phase_add_up() -> None:
    show = Show(quiet=True)
    for _ in range(2):
        with show("a"):
            pass
    assert set(show.seconds) == {"a"}
    assert show.seconds["a"] >= 0


def test_a_phase_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show()
    with pytest.raises(ValueError), show("build"):
        raise ValueError
    assert "done" not in capsys.readouterr().err
    assert show.seconds == {}
