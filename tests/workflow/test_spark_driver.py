"""What the driver of Spark does, against a Spark of a few lines that pipes to real processes as ``RDD.pipe`` says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from world import World

from kbuild.errors import ConfigurationError, ExtraNotInstalled, ProgramNotFound
from kbuild.scoring.errors import OtherAnswers, SparkFailed
from kbuild.workflow.batch import spark
from kbuild.workflow.batch.scoring import ScoreRequest

PLAN = {"job": "j-1", "out": "/out", "todo": [{"number": 0}, {"number": 1}, {"number": 2}]}
MANIFEST = {"rows": 1234, "parts": ["a", "b", "c"], "failed": 0}
BATCH = ScoreRequest(input="/in", output="/out", overwrite=True, workers=3)


class JavaError(Exception):
    """As py4j's, which has the JVM's exception in it; told by its module."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("an error occurred while calling o7.collect")
        self.java_exception = None
        for reason in reversed(reasons):
            self.java_exception = SimpleNamespace(
                getMessage=lambda reason=reason: reason, getCause=lambda inner=self.java_exception: inner
            )


JavaError.__module__ = "py4j.protocol"


class FakeSpark:
    """One context, and what was asked of it; ``fails`` is raised where the job is waited for."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.files: list[str] = []
        self.stopped = self.cancelled = 0
        self.slices: list[int] = []
        self.fails: BaseException | None = None
        self.refuses: BaseException | None = None
        self.says = ""
        self.active = 1
        self.done = 0

    # SparkConf
    def setMaster(self, master: str) -> FakeSpark:
        return self.set("spark.master", master)

    def setAppName(self, name: str) -> FakeSpark:
        return self.set("spark.app.name", name)

    def set(self, name: str, value: str) -> FakeSpark:
        self.settings[name] = value
        return self

    # pyspark.java_gateway: the JVM, which speaks while it starts and later
    def launch(self, conf: FakeSpark, popen: dict[str, Any]) -> str:
        assert conf is self
        self.said = popen["stderr"]
        assert popen["stdout"] is self.said, "kbuild's own stdout is of its answers"
        self.said.write(self.says.encode())
        self.said.flush()
        if isinstance(self.refuses, PySparkError) and "JAVA_GATEWAY" in self.refuses.condition:
            raise self.refuses
        return "gateway"

    # SparkContext
    def context(self, *, gateway: str, conf: FakeSpark) -> FakeSpark:
        assert conf is self and gateway == "gateway"
        if self.refuses is not None:
            raise self.refuses
        return self

    def addFile(self, path: str) -> None:
        """Which executors then have in their working folder, as it is if its name is not that of a tar."""
        self.files.append(path)

    def stop(self) -> None:
        self.stopped += 1

    @property
    def _jvm(self) -> Any:
        return SimpleNamespace(java=SimpleNamespace(util=SimpleNamespace(ArrayList=JavaList)))

    @property
    def _jsc(self) -> Any:
        tracker = SimpleNamespace(
            getJobInfo=lambda job: SimpleNamespace(stageIds=lambda: [5, 6]) if job == 7 else None,
            getStageInfo=lambda stage: (
                SimpleNamespace(numCompletedTasks=lambda: self.done, numActiveTasks=lambda: self.active)
                if stage == 5
                else None
            ),
        )
        return SimpleNamespace(parallelize=self.parallelize, statusTracker=lambda: tracker)

    def parallelize(self, lines: JavaList, slices: int) -> Any:
        self.slices.append(slices)
        return SimpleNamespace(pipe=lambda command: SimpleNamespace(collectAsync=lambda: Job(self, lines, command)))


class JavaList(list[str]):
    def add(self, value: str) -> None:
        self.append(value)


class Job:
    """Each line is a partition of its own, and goes to a process of its own; two looks until it is done."""

    def __init__(self, owner: FakeSpark, lines: JavaList, command: JavaList) -> None:
        self.owner, self.lines, self.command = owner, lines, command
        self.looks = 0

    def jobIds(self) -> list[int]:
        return [7, 8]

    def isDone(self) -> bool:
        self.looks += 1
        self.owner.done = self.looks if self.owner.active else 0
        if self.owner.fails is not None:
            raise self.owner.fails
        return self.looks > (1 if self.owner.active else 3)

    def get(self) -> list[str]:
        answers: list[str] = []
        for line in self.lines:
            done = subprocess.run(list(self.command), input=f"{line}\n", capture_output=True, text=True, check=True)
            answers += done.stdout.splitlines()
        return answers

    def cancel(self, now: bool) -> None:
        assert now
        self.owner.cancelled += 1


class PySparkError(Exception):
    def __init__(self, message: str, condition: str) -> None:
        super().__init__(message)
        self.condition = condition

    def getCondition(self) -> str:
        return self.condition


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSpark:
    made = FakeSpark()
    pyspark, errors, java = (ModuleType(f"pyspark{each}") for each in ("", ".errors", ".java_gateway"))
    vars(pyspark).update(SparkConf=lambda: made, SparkContext=made.context, errors=errors)
    vars(errors).update(PySparkException=PySparkError)
    vars(java).update(launch_gateway=made.launch)
    monkeypatch.setitem(sys.modules, "pyspark", pyspark)
    monkeypatch.setitem(sys.modules, "pyspark.errors", errors)
    monkeypatch.setitem(sys.modules, "pyspark.java_gateway", java)
    monkeypatch.setattr(spark, "_EVERY", 0.01)
    return made


Score = Callable[..., dict[str, Any]]


def pack(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=".")


@pytest.fixture
def score(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    """Scores on a master; ``asked`` of it are the scorer's own command lines, ``said`` what executors were sent."""
    folder = tmp_path / "archive"
    starter = folder / "bin/kbuild-score"
    starter.parent.mkdir(parents=True)
    kept = tmp_path / f"{'d' * 64}.tar.gz"
    asked: list[list[str]] = []

    @contextmanager
    def unpacked(request: Any, tools: Any) -> Iterator[Any]:
        yield SimpleNamespace(folder=folder, tools=tools, archive=lambda: kept)

    def ask(place: Path, argv: list[str], tools: Any, progress: Any) -> dict[str, Any]:
        assert place == folder
        asked.append(argv)
        return PLAN if argv[0] == "--only=plan" else MANIFEST

    def call(
        master: str, script: str = 'cat; [ "$1" = --pipe ]', plan: dict[str, Any] | None = None, **more: str
    ) -> Any:
        starter.write_text(f"#!/bin/sh\n{script}\n")
        starter.chmod(0o755)
        if plan is not None:
            monkeypatch.setitem(PLAN, "todo", plan["todo"])
        pack(folder, kept)
        monkeypatch.chdir(tmp_path)
        settings = {name.replace("__", "."): value for name, value in more.items()}
        return spark.score_on_spark(world.request(), BATCH, master, settings, world.tools), asked

    monkeypatch.setattr(spark, "unpacked_model", unpacked)
    monkeypatch.setattr(spark, "ask_scorer", ask)
    return call


def test_what_the_user_sets_goes_before_what_is_set_for_all(fake: FakeSpark, score: Score) -> None:
    score("local", spark__log__level="DEBUG")
    assert fake.settings["spark.log.level"] == "DEBUG"
    assert fake.settings["spark.ui.showConsoleProgress"] == "false"


def test_each_part_is_a_task_that_is_piped_to_the_archives_scorer(
    fake: FakeSpark, score: Score, tmp_path: Path
) -> None:
    manifest, asked = score("spark://host:7077", f'tee -a {tmp_path}/seen; [ "$1" = --pipe ]', memory="2g")
    assert manifest == MANIFEST
    lines = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert lines == [{"job": "j-1", "out": "/out", "part": {"number": number}} for number in range(3)]
    assert fake.slices == [3], "so many partitions, so that each part is a task"
    # Utils.fetchFile of Spark unpacks what ends with .tar.gz, .tgz or .tar.
    assert fake.files == [f"{tmp_path}/kbuild-{'d' * 16}.packed"]
    assert fake.settings["spark.master"] == "spark://host:7077" and fake.settings["memory"] == "2g"
    assert fake.settings["spark.ui.showConsoleProgress"] == "false"
    assert (fake.stopped, fake.cancelled) == (1, 0)
    # What was there is removed once, before the parts are made.
    assert [argv[0] for argv in asked] == ["--only=plan", "--only=finish"]
    assert ["--overwrite" in argv for argv in asked] == [True, False]
    assert all(argv[-3:] == ["--", "/in", "/out"] and "--workers=3" in argv for argv in asked)


def begin(folder: Path, script: str) -> list[subprocess.Popen[str]]:
    """Three tasks at once in an executor's working folder, whose archive has this script as its scorer."""
    starter = folder / "archive/bin/kbuild-score"
    starter.parent.mkdir(parents=True)
    starter.write_text(f"#!/bin/sh\n{script}\n")
    starter.chmod(0o755)
    (folder / "work").mkdir()
    pack(folder / "archive", folder / "work/x.packed")
    words = ["sh", "-c", spark._START, "sh", "./x", "./x.packed", "--pipe"]
    return [
        subprocess.Popen(words, cwd=folder / "work", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]


def test_tasks_that_begin_at_once_unpack_one_archive(tmp_path: Path) -> None:
    tasks = begin(tmp_path, 'cat; echo "$@"')
    assert [task.communicate(f"line {n}\n")[0] for n, task in enumerate(tasks)] == [
        f"line {number}\n--pipe\n" for number in range(3)
    ]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["x", "x.packed"]


def test_what_another_task_unpacked_meanwhile_is_not_unpacked_again(tmp_path: Path) -> None:
    """It was not there when this one looked, and is when this one has the lock."""
    scorer = tmp_path / "made/bin/kbuild-score"
    scorer.parent.mkdir(parents=True)
    scorer.write_text("#!/bin/sh\necho scored\n")
    scorer.chmod(0o755)
    late = tmp_path / "programs/ln"
    late.parent.mkdir()
    late.write_text(f'#!/bin/sh\nmv "$PWD/made" "$PWD/x" && exec {shutil.which("ln")} "$@"\n')
    late.chmod(0o755)
    (tmp_path / "x.packed").write_bytes(b"nothing of gzip")
    words = ["sh", "-c", spark._START, "sh", "./x", "./x.packed"]
    env = {"PATH": f"{late.parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("scored\n", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["programs", "x", "x.packed"]


def test_what_a_task_that_was_killed_has_half_unpacked_is_made_anew(tmp_path: Path) -> None:
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    for task in begin(tmp_path, "cat"):
        task.communicate("")
    work = tmp_path / "work"
    subprocess.run(["rm", "-r", work / "x"], check=True)
    (work / "x.lock").symlink_to(ended)
    (work / f"x.{ended}").mkdir()
    words = ["sh", "-c", spark._START, "sh", "./x", "./x.packed"]
    done = subprocess.run(words, cwd=work, input="line\n", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "line\n" and not (work / "x.lock").exists()


def test_an_archive_that_does_not_unpack_fails_the_task(tmp_path: Path) -> None:
    (tmp_path / "x.packed").write_bytes(b"nothing of gzip")
    words = ["sh", "-c", spark._START, "sh", "./x", "./x.packed"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 42 and "gzip" in done.stderr and not (tmp_path / "x").exists()


def test_a_master_in_this_process_is_sent_nothing(fake: FakeSpark, score: Score) -> None:
    score("local[2]")
    assert fake.files == [] and fake.slices == [3]


def test_where_every_part_is_finished_no_spark_is_started(fake: FakeSpark, score: Score) -> None:
    manifest, asked = score("spark://host:7077", plan={"todo": []})
    assert manifest == MANIFEST and len(asked) == 2
    assert fake.settings == {} and fake.stopped == 0


def test_what_a_task_says_went_wrong_is_raised_as_what_it_is(fake: FakeSpark, score: Score) -> None:
    told = json.dumps({"error": [82, "answers differ", "pack again"]})
    with pytest.raises(OtherAnswers, match="answers differ") as caught:
        score("local", f"cat > /dev/null; echo '{told}'")
    assert caught.value.hint == "pack again" and fake.stopped == 1


def test_spark_that_gives_up_is_told_by_its_innermost_reason(fake: FakeSpark, score: Score) -> None:
    fake.fails = JavaError("Job aborted", "All masters\n are unresponsive")
    with pytest.raises(SparkFailed, match="Spark gave up: All masters are unresponsive") as caught:
        score("spark://gone:7077")
    assert "is spark://gone:7077 there?" in str(caught.value.hint)
    assert (fake.stopped, fake.cancelled) == (1, 1)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_what_ends_the_driver_ends_the_job(fake: FakeSpark, score: Score, fault: BaseException) -> None:
    fake.fails = fault
    with pytest.raises(type(fault)):
        score("local")
    assert (fake.stopped, fake.cancelled) == (1, 1)


@pytest.mark.parametrize(
    ("refusal", "kind", "told"),
    [
        (PySparkError("no gateway", "JAVA_GATEWAY_EXITED"), ProgramNotFound, "Spark starts no Java"),
        (PySparkError("bad\nmaster", "INVALID_URL"), SparkFailed, "cannot be used: bad master"),
        (JavaError("outer", "Could not parse Master URL"), SparkFailed, "cannot be used: Could not parse Master URL"),
    ],
    ids=["no java", "refused", "the JVM's"],
)
def test_spark_that_does_not_start(
    fake: FakeSpark, score: Score, refusal: Exception, kind: type[Exception], told: str
) -> None:
    fake.refuses = refusal
    with pytest.raises(kind, match=told):
        score("spark://host:7077")
    assert fake.stopped == 0


def test_spark_connect_and_a_machine_without_spark(world: World, score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="is Spark Connect"):
        score("sc://host:15002")
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(ExtraNotInstalled) as caught:
        score("spark://host:7077")
    assert caught.value.hint == "pip install 'kbuild[spark]'"


def test_the_time_that_is_left_is_told_by_how_many_tasks_are_done(
    fake: FakeSpark, score: Score, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """One of three done after two seconds: four are left."""
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(spark, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    score("local")
    assert "score: parts on Spark, 4 s left" in world.heard.notes


def test_a_master_that_spark_does_not_know_is_told_before_anything_is_packed(score: Score) -> None:
    for master in ("nonsense", "host:7077", "http://host:7077", ""):
        with pytest.raises(ConfigurationError, match="is no master of Spark") as caught:
            score(master)
        assert "spark://HOST:7077" in str(caught.value.hint)
        assert str(caught.value).startswith(master or "an empty text")


@pytest.mark.parametrize("master", ["local", "local[2]", "local-cluster[2,1,1024]", "spark://a:7077,b:7077", "yarn"])
def test_masters_that_spark_knows(fake: FakeSpark, score: Score, master: str) -> None:
    """https://spark.apache.org/docs/latest/submitting-applications.html#master-urls"""
    assert score(master)[0] == MANIFEST


def test_a_java_that_starts_and_ends_is_told_by_what_it_said(fake: FakeSpark, score: Score) -> None:
    """The words of a JVM of Spark 4.1 that was given a setting that it does not take."""
    fake.says = (
        "WARNING: Using incubator modules: jdk.incubator.vector\n"
        'Exception in thread "main" org.apache.spark.SparkException: Time must be specified as seconds (s)\n'
        "\tat org.apache.spark.deploy.SparkSubmit.error(SparkSubmit.scala:1068)\n"
    )
    fake.refuses = PySparkError("no gateway", "JAVA_GATEWAY_EXITED")
    with pytest.raises(
        SparkFailed, match=r"spark://host:7077 cannot be used: Time must be specified as seconds \(s\)$"
    ):
        score("spark://host:7077")


def test_a_master_that_nobody_reaches_is_told_in_sparks_words(fake: FakeSpark, score: Score) -> None:
    """The call that fails only says that the context was stopped, and where in Java it was made."""
    fake.says = "26/11/29 18:18:25 ERROR StandaloneSchedulerBackend: Application has been killed. Reason: All gone.\n"
    fake.fails = JavaError("Cannot call methods on a stopped SparkContext.\nThis stopped SparkContext was created at:")
    with pytest.raises(SparkFailed, match=r"Spark gave up: Application has been killed. Reason: All gone\.$"):
        score("spark://host:7077")


def test_a_cluster_that_begins_no_task_is_told(
    fake: FakeSpark, score: Score, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """Without workers, or with less memory than is asked for, Spark waits for ever, and says so in its log alone."""
    fake.active = 0
    clock = iter([100.0, 116.0, 117.0, 118.0])
    monkeypatch.setattr(spark, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    score("spark://host:7077")
    told = [note for note in world.heard.notes if "no executor" in note]
    assert len(told) == 1 and "spark://host:7077" in told[0]
