"""Tasks that an engine starts as processes share a model that is loaded once, and end with what started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import pandas as pd
import pytest
from scored import Score, table

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each task loads the model itself"),
]

# As Spark's executor does: a process for each line, its stdin and stdout piped; then it waits for its own end.
ENGINE = """
import subprocess, sys
words = [sys.executable, "-m", "kbuild.scoring", "--pipe"]
started = []
for line in sys.stdin:
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.append(process)
    print("started", process.pid, flush=True)
    process.stdin.write(line)
    process.stdin.close()
    if sys.argv[1] == "one":
        print(process.stdout.read() or process.stderr.read(), process.wait(), sep="", flush=True)
for process in started if sys.argv[1] == "all" else []:
    print(process.stdout.read() or process.stderr.read(), process.wait(), sep="", flush=True)
print("over", flush=True)
import time
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes down which process loads it and which ones ask it, and takes as long as its table says."""

    class Loaded:
        def __setstate__(self, state: dict[str, Any]) -> None:
            import os
            from pathlib import Path

            with Path(os.environ["SEEN"]).open("a", encoding="utf-8") as seen:
                seen.write(f"loaded {os.getpid()}\n")

        def __getstate__(self) -> dict[str, Any]:
            return {"some": "state"}

    loaded = Loaded()

    def add_up(table: Any, scale: float, times: int, word: str) -> Any:
        import os
        import time
        from pathlib import Path

        with Path(os.environ["SEEN"]).open("a", encoding="utf-8") as seen:
            seen.write(f"asked {os.getpid()}\n")
        print("what a model prints")
        time.sleep(float(os.environ.get("TAKES", "0")))
        while "UNTIL" in os.environ and not Path(os.environ["UNTIL"]).exists():
            time.sleep(0.01)
        return table[[]].assign(sum=table["a"] * scale, is_loaded=loaded is not None)

    folder = tmp_path_factory.mktemp("counted")
    models.save_model("scored", folder / "model", func=add_up)
    (folder / "archive.json").write_text("{}")
    return folder / "model"


Tasks = Callable[..., list[str]]


@pytest.fixture
def tasks(score: Score, counted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    """What an engine is to send of a table of four parts."""
    monkeypatch.setenv("KBUILD_MODEL", str(counted))
    monkeypatch.setenv("SEEN", str(tmp_path / "planning"))

    def plan(*more: str) -> list[str]:
        table(400).to_parquet("in.parquet", row_group_size=100)
        code, err, planned = score("in.parquet", "out", "--part-rows", "100", "--only", "plan", *more)
        assert code == 0, err
        monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
        return [json.dumps({"job": planned["job"], "out": planned["out"], "part": part}) for part in planned["todo"]]

    return plan


Engine = Callable[[str, list[str]], "subprocess.Popen[str]"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    made: list[subprocess.Popen[str]] = []

    def start(how: str, lines: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        made.append(process)
        assert process.stdin is not None
        process.stdin.write("".join(f"{line}\n" for line in lines))
        process.stdin.close()
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def said(process: subprocess.Popen[str]) -> list[str]:
    """The lines until the engine says that all is over, but those of what it started."""
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "over\n")
    return [line.rstrip("\n") for line in lines if not line.startswith("started")]


def seen(folder: Path, what: str) -> list[int]:
    path = folder / "seen"
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(f"{what} ")]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("how", ["one", "all"], ids=["after each other", "at once"])
def test_tasks_of_an_engine_share_a_model_that_is_loaded_once(
    how: str, tasks: Tasks, engine: Engine, score: Score, tmp_path: Path
) -> None:
    lines = said(engine(how, tasks()))
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [record["rows"] for record in records] == [100] * 4, lines
    assert lines[1::2] == ["0"] * 4, "each ends well"
    (keeper,) = {*seen(tmp_path, "loaded")}
    asked = seen(tmp_path, "asked")
    assert len({*asked}) == 4 and keeper not in asked, "each part in a process of its own"
    assert score("in.parquet", "out", "--part-rows", "100", "--only", "finish")[0] == 0
    found = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "out").glob("part-*")))
    assert found["sum"].tolist() == (table(400)["a"] * 2.0).tolist()


@pytest.mark.slow
def test_parameters_are_those_of_the_job(tasks: Tasks, engine: Engine, tmp_path: Path) -> None:
    said(engine("one", tasks("--params", '{"scale": 10.0}')))
    assert len(seen(tmp_path, "loaded")) == 1, "nor does MLflow load it once more for them"
    found = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "out").glob("part-*")))
    assert found["sum"].tolist() == (table(400)["a"] * 10.0).tolist()


def test_it_ends_with_the_engine_though_that_is_killed(
    tasks: Tasks, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tasks()
    monkeypatch.setenv("TAKES", "1000")
    process = engine("all", lines)
    wait_for(lambda: len(seen(tmp_path, "asked")) == 4)
    there = [*{*seen(tmp_path, "loaded")}, *seen(tmp_path, "asked")]
    assert len(there) == 5 and all(map(is_there, there))
    process.kill()
    wait_for(lambda: not any(map(is_there, there)))
    assert not list((tmp_path / "out").glob("part-*"))


@pytest.mark.slow
def test_a_task_that_the_engine_ends_scores_no_longer_and_the_others_go_on(
    tasks: Tasks, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tasks()
    monkeypatch.setenv("UNTIL", str(tmp_path / "ended"))
    process = engine("all", lines[:2])
    assert process.stdout is not None
    first, _ = (int(process.stdout.readline().split()[1]) for _ in range(2))
    wait_for(lambda: len(seen(tmp_path, "asked")) == 2)
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: sum(map(is_there, seen(tmp_path, "asked"))) == 1)
    (tmp_path / "ended").touch()
    codes = [line for line in said(process) if not line.startswith("{")]
    assert codes == ["-15", "0"]
    assert len(list((tmp_path / "out").glob("part-*"))) == 1


def test_a_task_whose_fork_is_killed_fails(
    tasks: Tasks, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel kills where memory is short: the engine is to try it again."""
    lines = tasks()
    monkeypatch.setenv("TAKES", "1000")
    process = engine("one", lines[:1])
    wait_for(lambda: seen(tmp_path, "asked"))
    os.kill(seen(tmp_path, "asked")[0], signal.SIGKILL)
    assert said(process) == ["137"]


@pytest.mark.slow
def test_a_model_that_does_not_load_is_told_by_each_task(
    tasks: Tasks, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = tasks()
    monkeypatch.setenv("KBUILD_MODEL", str(tmp_path / "nothing"))
    answers = [json.loads(line) for line in said(engine("one", lines[:1])) if line.startswith("{")]
    code, message, _ = answers[0]["error"]
    assert code == 15 and "does not load" in message


def test_no_process_is_left_for_an_engine_that_has_ended_before(tasks: Tasks, tmp_path: Path) -> None:
    """As a task that was only starting when its executor was killed: init is its parent then, and never ends."""
    (line, *_) = tasks()
    answer = tmp_path / "answer"
    words = f"exec {sys.executable} -m kbuild.scoring --pipe < {tmp_path}/line > {answer}"
    (tmp_path / "line").write_text(f"{line}\n")
    # The shell between has ended before Python starts.
    subprocess.run(["sh", "-c", f"(sleep 0.3; {words}) & exit 0"], check=True)
    wait_for(lambda: answer.exists() and answer.read_text().endswith("\n"))
    assert json.loads(answer.read_text())["rows"] == 100
    (loaded,) = {*seen(tmp_path, "loaded")}
    assert seen(tmp_path, "asked") == [loaded]
    wait_for(lambda: not is_there(loaded))


@pytest.mark.slow
def test_where_nothing_can_be_shared_a_task_loads_the_model_itself(tasks: Tasks, tmp_path: Path) -> None:
    """Where another has the name: a process that listens, and answers nobody."""
    from kbuild.scoring import shared

    lines = tasks()
    code = (
        "import os, socket, sys\nfrom kbuild.scoring import shared, __main__\n"
        "shared._name = lambda engine: b'\\0kbuild-test-' + str(os.getpid()).encode()\n"
        "shared._is_mine = lambda connection: False\nshared._SOON = 0.2\n"
        "sys.exit(__main__.main(['--pipe'], own_stdout=True))"
    )
    assert shared._SOON > 1
    done = subprocess.run([sys.executable, "-c", code], input=lines[0], capture_output=True, text=True, timeout=100)
    assert json.loads(done.stdout)["rows"] == 100 and done.returncode == 0, done.stderr
    assert {*seen(tmp_path, "loaded")} >= {*seen(tmp_path, "asked")} != set()
    assert "what a model prints" in done.stderr
