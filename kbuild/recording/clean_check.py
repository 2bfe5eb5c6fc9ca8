"""The clean-process check: a saved model is loaded and asked where only its own files and packages are found.

Where the kernel allows namespaces, that is a root of the process's own (``surroundings.py`` says what is in it), and
nothing else of this machine can be read. Elsewhere an audit hook hides files from Python, and the answer says so.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.errors import RecordingError
from kbuild.process import run
from kbuild.recording.surroundings import LOADER_VARIABLES, NONROOT, Surroundings, find_surroundings, make_variables

SERVING_REQUEST = "serving_input_example.json"
RECORDED_PREDICTION = "recorded_prediction.json"

_SCRIPT = Path(__file__).with_name("_clean_process.py")
_ROOT_SCRIPT = Path(__file__).with_name("_clean_root.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanAnswer:
    """What the clean process said: the response's text (None without an example), or why there is none.

    ``missing`` is a module that could not be imported; ``kind`` the class of the error, ``file`` the file it names.
    ``network`` are the addresses of other machines that it asked, empty where it needs none, and ``(unknown)`` where
    only C libraries know them.
    ``shut_off`` says why files of this machine were hidden from Python alone; None where nothing could reach them.
    """

    response: str | None = None
    error: str | None = None
    missing: str | None = None
    kind: str | None = None
    file: str | None = None
    shut_off: str | None = None
    network: tuple[str, ...] = ()


def ask_in_clean_process(
    model: Path,
    *,
    blocked: Iterable[str],
    shipped: Iterable[str],
    closure: Iterable[str],
    timeout: float,
    python: str = sys.executable,
) -> CleanAnswer:
    """Load a saved model in a new isolated interpreter, where nothing else is, and post it its stored example.

    ``blocked`` are installed modules that the image would not have; ``shipped`` must come from the model's code;
    ``closure`` are the distributions that the image will have.
    Raises RecordingError when the process does not end in ``timeout`` seconds or dies without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="kbuild-check-") as folder:
        own = Path(folder).resolve()
        for name in ("empty", "root", "said"):
            (own / name).mkdir()
        script = Path(shutil.copyfile(_SCRIPT, own / _SCRIPT.name))
        around = find_surroundings(closure, python)
        answer = own / "said" / "answer.json"
        task: dict[str, Any] = {
            "model": str(model),
            "request": SERVING_REQUEST if (model / SERVING_REQUEST).is_file() else None,
            "blocked": sorted(blocked),
            "shipped": sorted({"kbuild", *shipped}),
            "hidden": sorted(around.hidden),
            "scrub": LOADER_VARIABLES,
            "readable": None,
            "answer": str(answer),
        }

        def start_rooted(*, network: bool) -> Any:
            return _start_rooted(own, script, model, {**task, "network": network}, around, timeout, python)

        network = False
        try:
            done = start_rooted(network=False)
            if _failed(answer):
                # A server may be reached from where the image runs, too, but none of this very machine.
                answer.unlink()
                network = True
                done = start_rooted(network=True)
            shut_off = None
            # Whatever the reason: an interpreter may need of this machine what nobody would think of.
            if not answer.is_file():
                shut_off = (done.stderr.strip().splitlines() or ["no namespaces"])[-1]
                done = _start_hooked(own, script, model, task, around, timeout, python)
        except TimeoutError as error:
            raise RecordingError(
                f"the model was not loaded in a clean process within {timeout:g} seconds",
                hint="raise check_timeout in pyproject.toml, [tool.kbuild.training]",
            ) from error
        if not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise RecordingError(f"the clean process that loads the model died with status {done.returncode}: {last}")
        said = json.loads(answer.read_text(encoding="utf-8"))
    told = {name: said.get(name) for name in ("response", "error", "missing", "kind", "file")}
    asked = tuple(said.get("asked", ())) or (("(unknown)",) if network and said.get("error") is None else ())
    return CleanAnswer(**told, shut_off=shut_off, network=asked)


def _failed(answer: Path) -> bool:
    """Whether there is an answer, and it is an error that a network might mend."""
    if not answer.is_file():
        return False
    said = json.loads(answer.read_text(encoding="utf-8"))
    return said.get("error") is not None and said.get("missing") is None


def _start_rooted(
    own: Path, script: Path, model: Path, task: Mapping[str, Any], around: Surroundings, timeout: float, python: str
) -> Any:
    """In a root of its own; ends with 71 where the kernel does not allow that."""
    job = own / "task.json"
    job.write_text(json.dumps(task), encoding="utf-8")
    order = {
        "root": str(own / "root"),
        "links": around.links,
        "binds": [*around.binds, str(model), str(script), str(job)],
        "covered": around.covered,
        "files": around.files,
        "writable": str(own / "said"),
        "cwd": "/",
        "network": task["network"],
        "user": NONROOT,
        "argv": [python, "-I", str(script), str(job)],
        "env": make_variables(),
    }
    told = own / "order.json"
    told.write_text(json.dumps(order), encoding="utf-8")
    return run([sys.executable, "-I", str(_ROOT_SCRIPT), str(told)], cwd=own, env=make_variables(), timeout=timeout)


def _start_hooked(
    own: Path, script: Path, model: Path, task: Mapping[str, Any], around: Surroundings, timeout: float, python: str
) -> Any:
    """With an audit hook of Python's before all files that the image will not have."""
    job = own / "task.json"
    readable = {"binds": around.binds, "covered": around.covered}
    job.write_text(
        json.dumps({**task, "network": True, "readable": readable, "own": [str(own), str(model.resolve())]}),
        encoding="utf-8",
    )
    home = {"HOME": str(own / "empty"), "TMPDIR": str(own / "empty")}
    home["MLFLOW_TRACKING_URI"] = f"sqlite:///{own}/empty/unused.db"
    variables = {**make_variables(), **home}
    return run([python, "-I", str(script), str(job)], cwd=own / "empty", env=variables, timeout=timeout)
