"""What the demo trains, says of it, and says of a training that failed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.traceback import Traceback

from kbuild.cli import demo as demo_command
from kbuild.digest import digest_bytes
from kbuild.errors import OutputError, RecordingError
from kbuild.image.store.verdicts import Verdicts
from kbuild.process import Completed
from kbuild.progress import Silent
from kbuild.workflow import Delivery, demo
from kbuild.workflow.demo import find_last_words


def draw(error: Exception, width: int) -> str:
    stream = io.StringIO()
    try:
        raise error
    except Exception as raised:  # noqa: BLE001
        made = Traceback.from_exception(type(raised), raised, raised.__traceback__, show_locals=True)
        Console(file=stream, width=width).print(made)
    return stream.getvalue()


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'sklearn'"), ValueError("a" * 150), KeyError("age")]
)
def test_of_a_traceback_in_a_box_the_error_is_told(error: Exception) -> None:
    drawn = draw(error, 1000)
    told = find_last_words(drawn, "[11/28/26 10:38:52] INFO     Loading data          data_catalog.py:1007\n")
    assert told == f"{type(error).__name__}: {error}"


def test_of_a_plain_traceback_the_last_line() -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1\nkedro.io.core.DatasetError: no file\n'
    assert find_last_words(text, "INFO  other\n") == "kedro.io.core.DatasetError: no file"
    assert find_last_words("Error: No such command 'rum'.\n", "") == "Error: No such command 'rum'."


def test_without_any_error_the_last_line_less_its_margin() -> None:
    log = "[11/28/26] INFO     Loading data from patients                      data_catalog.py:1007\n\n"
    assert find_last_words("", log) == "[11/28/26] INFO     Loading data from patients"
    assert find_last_words("", "") == "it said nothing"


MODEL, RUN = "m-" + "5" * 32, "6" * 32
LOGGED = f"INFO  Logged model models:/{MODEL} in run {RUN}\n"


class Trained:
    """``kedro run`` as the demo's project answers it: a line, and a model below ``mlartifacts``."""

    def __init__(self, folder: Path, said: str = LOGGED, code: int = 0) -> None:
        self.folder, self.said, self.code = folder, said, code
        self.asked: list[dict[str, Any]] = []

    def __call__(self, argv: Any, **given: Any) -> Completed:
        self.asked.append({"argv": list(argv), **given})
        made = self.folder / "mlartifacts/models" / MODEL / "artifacts"
        made.mkdir(parents=True, exist_ok=True)
        (made / "serving_input_example.json").write_text('{"inputs": [1]}')
        return Completed(argv=tuple(argv), returncode=self.code, stdout=self.said, stderr="ValueError: no\n")


@pytest.mark.parametrize(
    "variable", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"]
)
def test_the_demo_trains_in_its_folder_whatever_server_this_shell_has(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "https://mlflow.example")
    run = Trained(tmp_path)
    assert demo.train(tmp_path, run, Silent()) == RUN
    (asked,) = run.asked
    assert asked["argv"][1:] == ["-m", "kedro", "run"] and asked["cwd"] == tmp_path
    assert not [name for name in asked["env"] if name.startswith("MLFLOW_")] and asked["env"]["DO_NOT_TRACK"] == "1"
    assert json.loads((tmp_path / demo.REQUEST_NAME).read_text()) == {"inputs": [1]}


@pytest.mark.parametrize(("said", "code"), [("nothing\n", 0), (LOGGED, 1)])
def test_a_training_that_failed_is_told_by_its_last_words(said: str, code: int, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="kedro run failed: ValueError: no") as caught:
        demo.train(tmp_path, Trained(tmp_path, said, code), Silent())
    assert f"cd {tmp_path}; kedro run" in str(caught.value.hint)


def test_the_demo_writes_over_nobodys_files(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("mine", "file"):
        with pytest.raises(OutputError, match="is not a demo of kbuild"):
            demo.copy_project(tmp_path / name)
    with pytest.raises(OutputError, match="cannot be copied"):
        demo.copy_project(tmp_path / "file/below")
    for _ in range(2):  # an earlier demo is gone on with
        demo.copy_project(tmp_path / "new")
    assert (tmp_path / "new/pyproject.toml").is_file() and (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_the_demo_is_told_with_what_to_type_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = f"sha256:{'1' * 64}"
    image = SimpleNamespace(digest=digest, size=246_000_000, engine="native")
    built = SimpleNamespace(reference=f"diabetes@{digest}", image=image)
    asked: list[Any] = []

    def run_demo(folder: Path, make_request: Any, make_tools: Any) -> Any:
        tools = make_tools(folder)
        asked.extend([folder, tools.store.tracking_uri, make_request(RUN).model])
        return demo.DemoResult(
            folder=folder, run_id=RUN, image=built, prediction=[1.5], expected=[1.5], runtime="namespaces"
        )  # type: ignore[arg-type]

    monkeypatch.setattr(demo_command, "run_demo", run_demo)
    monkeypatch.setattr(demo_command, "check_extra", lambda *_, **__: None)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(demo_command.command, ["--dir", "here"])
    assert done.stdout == f"diabetes@{digest}\n[1.5]\n"
    assert asked == [tmp_path / "here", f"sqlite:///{tmp_path}/here/mlflow.db", RUN]
    for text in (
        f"cd {tmp_path}/here",
        "run diabetes:demo --port 8080",
        f"lock {RUN[:12]} ",
        "246 MB",
        "namespaces",
        "# serve it; then, in another terminal in that folder:",
    ):
        assert text in done.stderr and "namespaces" in done.stderr, text
    said = json.loads(CliRunner().invoke(demo_command.command, ["--dir", "here", "--json"]).stdout)
    assert (said["dir"], said["run_id"], said["digest"]) == (f"{tmp_path}/here", RUN, digest)
    assert (said["image"], said["prediction"], said["expected"]) == (f"diabetes@{digest}", [1.5], [1.5])


def test_the_whole_of_the_demo_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training needs the project, the image the run that was trained, and the answer the image."""
    folder, done = tmp_path / "here", list[Any]()
    digest = digest_bytes(b"an image")
    progress, image = Silent(), SimpleNamespace(digest=digest)
    built = SimpleNamespace(reference=f"diabetes@{digest}", image=image)
    tools: Any = SimpleNamespace(
        phases=lambda phase: contextlib.nullcontext(progress),
        run="runner",
        cache=tmp_path / "cache",
        using_cache=contextlib.nullcontext,
        store="store",
    )

    def train(where: Path, run: Any, told: Any) -> str:
        assert (where / "src/diabetes/pipeline_registry.py").is_file(), "what ships"
        done.append(("train", where, run))
        return RUN

    def build_image(request: Any, delivery: Any, given: Any) -> Any:
        done.append(("build", request, delivery, given is tools))
        return built

    def verify_image(asked: Any, run: Any, *, cache: Path, timeout: float, progress: Any, **_: Any) -> Any:
        done.append(("verify", asked, run, cache, timeout >= 60))
        return SimpleNamespace(
            check=lambda: done.append("compared"), prediction=[1.5], expected=[1.25], runtime="here", verdict="passed"
        )

    def write_verdict(*written: Any) -> None:
        done.append(("tag", *written))

    monkeypatch.setattr(demo, "train", train)
    monkeypatch.setattr(demo, "build_image", build_image)
    monkeypatch.setattr("kbuild.verify.judging.verify_image", verify_image)
    monkeypatch.setattr(demo, "write_verdict", write_verdict)
    result = demo.run_demo(folder, lambda run_id: f"a request for {run_id}", lambda where: tools)  # type: ignore[arg-type, return-value]
    assert done == [
        ("train", folder, "runner"),
        ("build", f"a request for {RUN}", Delivery(tag="diabetes:demo"), True),
        ("verify", image, "runner", tmp_path / "cache", True),
        ("tag", image, "passed", "store"),
        "compared",
    ]
    assert Verdicts(tmp_path / "cache/images").read(digest) == "passed", "kbuild list tells it"
    assert (result.folder, result.run_id, result.image) == (folder, RUN, built)
    assert (result.prediction, result.expected, result.runtime) == ([1.5], [1.25], "here")


@pytest.mark.parametrize(
    ("started", "found", "nox", "typed"),
    [
        ("/venv/bin/kbuild", "/venv/bin/kbuild", False, "kbuild"),
        ("/venv/bin/kbuild", "/usr/bin/kbuild", False, "/venv/bin/kbuild"),
        ("/venv/bin/kbuild", None, False, "/venv/bin/kbuild"),
        ("/venv/bin/kbuild", "/venv/bin/kbuild", True, "/venv/bin/kbuild"),
        ("/venv/bin/pytest", None, False, "kbuild"),
    ],
)
def test_the_program_is_named_as_the_shell_finds_it(
    monkeypatch: pytest.MonkeyPatch, started: str, found: str | None, nox: bool, typed: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started, "demo"])
    monkeypatch.setattr(shutil, "which", lambda name: found)
    monkeypatch.setenv("NOX_CURRENT_SESSION", "demo") if nox else monkeypatch.delenv("NOX_CURRENT_SESSION", False)
    assert demo_command._program() == typed
