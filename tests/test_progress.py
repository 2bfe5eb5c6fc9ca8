"""What is said while work goes on that says nothing itself."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kbuild import progress
from kbuild.cache.scratch import scratch_folder
from kbuild.progress import Progress, Silent, saying, telling


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []
        self.results: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def made(self, text: str) -> None:
        self.results.append(text)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        self.phases.append(phase)
        yield self
        self.phases.append(f"{phase} is over")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(progress, "_PATIENCE", 0.05)
    return 0.05


def wait_for(heard: Heard, notes: int) -> None:
    deadline = time.monotonic() + 20
    while len(heard.notes) < notes and time.monotonic() < deadline:
        time.sleep(0.01)


def test_it_is_noted_again_and_again(patience: float) -> None:
    heard = Heard()
    with telling(heard, "copying"):
        wait_for(heard, 3)
    told = len(heard.notes)
    time.sleep(3 * patience)
    assert len(heard.notes) == told >= 3 and {*heard.notes} == {"copying"}


def test_what_takes_no_time_is_no_phase() -> None:
    heard = Heard()
    with saying(heard, "tidy", "files"):
        pass
    assert heard.phases == heard.notes == []


def test_what_takes_long_is_a_phase_that_ends_with_it(patience: float) -> None:
    heard = Heard()
    with pytest.raises(ValueError, match="as it was"), saying(heard, "tidy", "files"):
        wait_for(heard, 2)
        raise ValueError("as it was")
    assert heard.phases == ["tidy", "tidy is over"] and heard.results == ["files"]


def test_words_that_would_stop_the_work_do_not_stop_what_tidies_up(
    patience: float, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = Heard()

    class Stopped(Heard):
        def note(self, text: str) -> None:
            heard.note(text)
            raise KeyboardInterrupt

    for words in (telling(Stopped(), "copying"), saying(Stopped(), "tidy", "files")):
        heard.notes.clear()
        with words:
            wait_for(heard, 1)
    assert capsys.readouterr().err == ""


def test_removing_a_folder_that_takes_long_is_told(
    patience: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    monkeypatch.setattr("kbuild.cache.scratch.remove_tree", lambda _: wait_for(heard, 1))
    with scratch_folder(tmp_path, "work-", voice=heard):
        assert not heard.phases
    assert heard.phases == ["tidy", "tidy is over"]
