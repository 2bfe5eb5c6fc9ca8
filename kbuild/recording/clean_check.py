"""The clean-process check: a saved model is loaded and asked where only its own files and packages are found.

Where the kernel allows namespaces, that is a root of the process's own (``surroundings.py`` says what is in it), and
nothing else of this machine can be read. Elsewhere an audit hook hides files from Python, and the answer says so.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.errors import RecordingError
from kbuild.process import Completed, last_line, run
from kbuild.recording.surroundings import LOADER_VARIABLES, NONROOT, Surroundings, find_surroundings, make_variables

SERVING_REQUEST = "serving_input_example.json"
RECORDED_PREDICTION = "recorded_prediction.json"

_SCRIPT = Path(__file__).with_name("_clean_process.py")
_MACHINE_SCRIPT = Path(__file__).with_name("another_machine.py")
_NAMED = 3  # of many files, in one message
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    """A model and what the process that loads it is given: ``own`` is a folder to write to, ``scripts`` what it
    runs and what lies beside."""

    own: Path
    scripts: tuple[Path, ...]
    model: Path
    task: Mapping[str, Any]
    around: Surroundings
    timeout: float

    def write_task(self, **more: Any) -> Path:
        """The task for the process, as a file."""
        path = self.own / "task.json"
        path.write_text(json.dumps({**self.task, **more}), encoding="utf-8")
        return path


def ask_in_clean_process(
    model: Path,
    *,
    blocked: Iterable[str],
    shipped: Iterable[str],
    closure: Iterable[str],
    timeout: float,
    base: str | None = None,
) -> CleanAnswer:
    """Load a saved model in a new isolated interpreter, where nothing else is, and post it its stored example.

    ``blocked`` are installed modules that the image would not have; ``shipped`` must come from the model's code;
    ``closure`` are the distributions that the image will have, ``base`` is what the project says that it starts from.
    Raises RecordingError when a file of those distributions is not what was installed, and when the process does not
    end in ``timeout`` seconds or dies without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="kbuild-check-") as folder:
        own = Path(folder).resolve()
        for name in ("empty", "root", "said"):
            (own / name).mkdir()
        around = find_surroundings(closure, base)
        _check_unchanged(around.changed)
        answer = own / "said" / "answer.json"
        task: dict[str, Any] = {
            "model": str(model),
            "request": SERVING_REQUEST if (model / SERVING_REQUEST).is_file() else None,
            "blocked": sorted(blocked),
            "shipped": sorted({"kbuild", *shipped}),
            "hidden": sorted(around.hidden),
            "places": _link_interpreter(own / "said"),
            "scrub": LOADER_VARIABLES,
            "release": name_another_kernel(os.uname().release),
            "readable": None,
            "answer": str(answer),
        }
        script, beside = (Path(shutil.copyfile(each, own / each.name)) for each in (_SCRIPT, _MACHINE_SCRIPT))
        check = _Check(own=own, scripts=(script, beside), model=model, task=task, around=around, timeout=timeout)
        network = False
        try:
            done = _start_rooted(check, network=False)
            if _failed(answer):
                # A server may be reached from where the image runs, too, but none of this very machine.
                answer.unlink()
                network = True
                done = _start_rooted(check, network=True)
            shut_off = None
            # Whatever the reason: an interpreter may need of this machine what nobody would think of.
            if not answer.is_file():
                shut_off = last_line(done.stderr, "no namespaces")
                done = _start_hooked(check)
        except TimeoutError as error:
            raise RecordingError(
                f"the model was not loaded in a clean process within {timeout:g} seconds",
                hint="raise check_timeout in pyproject.toml, [tool.kbuild.training]",
            ) from error
        if not answer.is_file():
            last = last_line(done.stderr, "no output")
            raise RecordingError(f"the clean process that loads the model died with status {done.returncode}: {last}")
        said = json.loads(answer.read_text(encoding="utf-8"))
    told = {name: said.get(name) for name in ("response", "error", "missing", "kind", "file")}
    asked = tuple(said.get("asked", ())) or (("(unknown)",) if network and said.get("error") is None else ())
    return CleanAnswer(**told, shut_off=shut_off, network=asked)


def _check_unchanged(changed: Sequence[str]) -> None:
    if not changed:
        return
    named, more = ", ".join(changed[:_NAMED]), f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    raise RecordingError(
        f"training used packages that somebody changed after they were installed, which the image gets as they were "
        f"released: {named}{more}",
        hint="install those packages anew and train again (pip install --force-reinstall --no-deps NAME==VERSION), or "
        "make what was changed part of the project's package",
    )


def _link_interpreter(folder: Path) -> dict[str, str]:
    """Other names for the folders of this interpreter, which lie elsewhere in an image."""
    prefixes = dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix))
    places = {prefix: folder / f"python-{number}" for number, prefix in enumerate(prefixes)}
    for prefix, link in places.items():
        link.symlink_to(prefix)
    return {prefix: str(link) for prefix, link in places.items()}


def name_another_kernel(release: str) -> str:
    """The release of a kernel that many servers run, and this machine does not."""
    return "5.15.0" if not release.startswith("5.") else "6.1.0"


def _failed(answer: Path) -> bool:
    """Whether there is an answer, and it is an error that a network might mend."""
    if not answer.is_file():
        return False
    said = json.loads(answer.read_text(encoding="utf-8"))
    return said.get("error") is not None and said.get("missing") is None


def _start_rooted(check: _Check, *, network: bool) -> Completed:
    """In a root of its own; ends with 71 where the kernel does not allow that."""
    own, around, job = check.own, check.around, check.write_task(network=network)
    order = {
        "root": str(own / "root"),
        "links": around.links,
        "folders": around.folders,
        "binds": [*around.binds, str(check.model), *map(str, check.scripts), str(job)],
        "covered": around.covered,
        "files": around.files,
        "writable": str(own / "said"),
        "cwd": "/",
        "network": network,
        "user": NONROOT,
        "release": check.task["release"],
        "argv": [sys.executable, "-I", str(check.scripts[0]), str(job)],
        "env": make_variables(),
    }
    told = own / "order.json"
    told.write_text(json.dumps(order), encoding="utf-8")
    argv = [sys.executable, "-I", str(_ROOT_SCRIPT), str(told)]
    return run(argv, cwd=own, env=make_variables(), timeout=check.timeout)


def _start_hooked(check: _Check) -> Completed:
    """With an audit hook of Python's before all files that the image will not have."""
    own, readable = check.own, {"binds": check.around.binds, "covered": check.around.covered}
    job = check.write_task(network=True, readable=readable, own=[str(own), str(check.model.resolve())])
    home = {"HOME": str(own / "empty"), "TMPDIR": str(own / "empty")}
    home["MLFLOW_TRACKING_URI"] = f"sqlite:///{own}/empty/unused.db"
    argv, variables = [sys.executable, "-I", str(check.scripts[0]), str(job)], {**make_variables(), **home}
    return run(argv, cwd=own / "empty", env=variables, timeout=check.timeout)
