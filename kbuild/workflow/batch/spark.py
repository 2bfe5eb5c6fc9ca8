"""Parts as tasks of Spark: executors get the archive, and each task is a process of its own Python.

No Python of the driver's or of an executor's takes part: the archive's scorer cuts the input into parts, Spark's JVM
pipes each to the scorer of an executor (``JavaRDD.pipe``), and the scorer puts together what they made. So neither
versions of Python nor packages have to agree, and an executor needs nothing but Spark.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kbuild.errors import ConfigurationError, ExtraNotInstalled, ProgramNotFound
from kbuild.files import link_or_copy
from kbuild.image.engines.archive import SCORE
from kbuild.progress import Progress, how_many
from kbuild.scoring.errors import SparkFailed
from kbuild.workflow.batch.packing import unpacked_model
from kbuild.workflow.batch.scoring import ScoreRequest, ask_scorer, make_error, told_parts
from kbuild.workflow.prepare import ImageRequest
from kbuild.workflow.tools import Tools

_EVERY = 0.5  # seconds between two looks at how far the job is
_PATIENCE = 15.0  # seconds without a task that was begun, after which that is told
# https://spark.apache.org/docs/latest/submitting-applications.html#master-urls
_MASTER = re.compile(r"(spark|k8s|mesos)://.+|yarn|local(-cluster)?(\[.+\])?")
_HEARD = 1 << 16  # bytes of what the JVM said last that are looked at
# The first task of an executor unpacks, others wait; what one that was ended has left, the next one makes anew.
_START = """\
here=$1 archive=$2
shift 2
until [ -d "$here" ]; do
  if ln -s $$ "$here.lock" 2> /dev/null; then
    if [ ! -d "$here" ]; then
      rm -rf "$here.$$" && mkdir "$here.$$" && gzip -dc "$archive" | tar -xf - -C "$here.$$" || exit 42
      [ -d "$here" ] || mv "$here.$$" "$here"
    fi
    rm -f "$here.lock"
  elif kill -0 "$(readlink "$here.lock")" 2> /dev/null; then
    sleep 0.5
  else
    rm -f "$here.lock"
  fi
done
exec "$here/bin/kbuild-score" "$@"
"""


def score_on_spark(
    request: ImageRequest, batch: ScoreRequest, master: str, settings: Mapping[str, str], tools: Tools
) -> dict[str, Any]:
    """Score the batch on the cluster of a master; returns its manifest.

    IN and OUT must be places that the executors see too. Raises what ``score_tables`` raises, and SparkFailed.
    """
    if master.startswith("sc://"):
        raise ConfigurationError(f"{master} is Spark Connect", hint="name a master, such as spark://HOST:7077")
    if not _MASTER.fullmatch(master):
        hint = "such as spark://HOST:7077, yarn, k8s://https://HOST:PORT or local[2]"
        raise ConfigurationError(f"{master or 'an empty text'} is no master of Spark", hint=hint)
    with unpacked_model(request, tools) as model:
        tools = model.tools
        with tools.phases("score") as progress:
            planned = ask_scorer(model.folder, ["--only=plan", *batch.argv()], tools, progress)
            todo = planned.get("todo", [])
            if todo:
                tasks = [json.dumps({"job": planned["job"], "out": planned["out"], "part": part}) for part in todo]
                # What runs in this very process needs no copy of the archive.
                archive = None if master.partition("[")[0] == "local" else model.archive()
                with _session(master, settings, progress) as context:
                    start = [str(model.folder / SCORE)] if archive is None else _send(context, archive)
                    _run(context, [*start, "--pipe"], tasks, master, progress)
            # The options again, but for the one that would remove what was just made.
            rest = [each for each in batch.argv() if each != "--overwrite"]
            manifest = ask_scorer(model.folder, ["--only=finish", *rest], tools, progress)
            progress.made(f"{how_many(manifest['rows'], 'row')} in {told_parts(manifest)}, by {master}")
            return manifest


@contextmanager
def _session(master: str, settings: Mapping[str, str], progress: Progress) -> Iterator[Any]:
    """A SparkContext that is stopped after the block. What its JVM says is shown where it is the reason of an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions of pandas, which is not asked for anything
            from pyspark import SparkConf, SparkContext
            from pyspark.errors import PySparkException
            from pyspark.java_gateway import launch_gateway
    except ImportError as error:
        raise ExtraNotInstalled("PySpark is not installed", hint="pip install 'kbuild[spark]'") from error
    progress.note(f"asking {master}")
    conf = SparkConf().setMaster(master).setAppName("kbuild score")
    for name, value in {"spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR", **settings}.items():
        conf.set(name, value)
    with tempfile.TemporaryFile() as said:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known = getattr(SparkContext, "_gateway", None)  # one JVM a process
                gateway = known or launch_gateway(conf, {"stdout": said, "stderr": said})
                context = SparkContext(gateway=gateway, conf=conf)
        except PySparkException as error:
            if "JAVA_GATEWAY" not in str(error.getCondition()):
                raise SparkFailed(f"{master} cannot be used: {_line(error)}") from error
            reason = re.search(r"Exception in thread .*?: (.*)", _heard(said))
            if reason is not None:
                raise SparkFailed(f"{master} cannot be used: {reason[1][:300]}") from error
            raise ProgramNotFound(
                "Spark starts no Java", hint="install a Java, such as Debian's default-jre-headless"
            ) from error
        except Exception as error:  # py4j's, which is there with PySpark alone
            raise SparkFailed(f"{master} cannot be used: {_line(error)}") from error
        try:
            yield context
        except Exception as error:
            if not type(error).__module__.startswith("py4j"):
                raise
            # Of a master that nobody reaches the first call is told, in words of the JVM's inside.
            why = _line(error)
            logged = re.findall(r" ERROR \w+: (.*)", _heard(said))
            if "stopped SparkContext" in why and logged:
                why = logged[-1][:300]
            hint = f"is {master} there? the same command goes on with what is not finished"
            raise SparkFailed(f"Spark gave up: {why}", hint=hint) from error
        finally:
            context.stop()


def _heard(said: IO[bytes]) -> str:
    size = os.fstat(said.fileno()).st_size
    return os.pread(said.fileno(), _HEARD, max(0, size - _HEARD)).decode(errors="replace")


def _send(context: Any, archive: Path) -> list[str]:
    """Give the archive to the executors, now and to those that come later; what starts the scorer there.

    As a file that is unpacked there: what Spark unpacks it also unpacks for the driver, which has no use for it and
    waits until all of it is removed. Spark would unpack a file too whose name says that it is an archive.
    """
    sent = archive.with_name(f"kbuild-{archive.name[:16]}.packed")
    link_or_copy(archive, sent)
    context.addFile(str(sent))
    return ["sh", "-c", _START, "sh", f"./{sent.stem}", f"./{sent.name}"]


def _run(context: Any, words: Sequence[str], tasks: Sequence[str], master: str, progress: Progress) -> None:
    """One task a part; raises the error that one of them told, and py4j's where Spark gave up."""
    lines = context._jvm.java.util.ArrayList()
    command = context._jvm.java.util.ArrayList()
    for each in tasks:
        lines.add(each)
    for each in words:
        command.add(each)
    asked = context._jsc.parallelize(lines, len(tasks)).pipe(command).collectAsync()
    begin, idle = time.monotonic(), True
    try:
        while not asked.isDone():
            time.sleep(_EVERY)
            begun, done = _tasks(context, asked)
            took = time.monotonic() - begin
            if idle and (begun or took > _PATIENCE):
                idle = False
                if not begun:
                    progress.tell(
                        f"{master} gives no executor so far: are its workers there, and as large as is asked?"
                    )
            rate = done / took
            progress.note(f"parts on Spark{f', {(len(tasks) - done) / rate:.0f} s left' if rate else ''}")
            progress.count(done, len(tasks), "parts")
        answers = [json.loads(line) for line in asked.get()]
    except BaseException:
        asked.cancel(True)
        raise
    for each in answers:
        if "error" in each:
            raise make_error(*each["error"])


def _tasks(context: Any, asked: Any) -> tuple[int, int]:
    """How many tasks were begun, and how many of them are done."""
    tracker = context._jsc.statusTracker()
    running = done = 0
    for job in asked.jobIds():
        info = tracker.getJobInfo(job)
        for stage in info.stageIds() if info is not None else ():
            found = tracker.getStageInfo(stage)
            done += 0 if found is None else found.numCompletedTasks()
            running += 0 if found is None else found.numActiveTasks()
    return running + done, done


def _line(error: BaseException) -> str:
    """The innermost reason that the JVM gives, in one line."""
    java = getattr(error, "java_exception", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    text = str(java.getMessage()) if java is not None else str(error)
    return " ".join(text.split())[:300]
