"""Run as a script, isolated, in an empty folder: load a model and answer its example, as an image would.

Argument: a JSON file with ``model`` (a folder), ``request`` (a file name in it, or null), ``blocked`` (top-level
modules that the image would not have), ``shipped`` (those that must come from the model's own code), ``hidden``
(distributions that the image would not have), ``places`` (folders of the interpreter, and links to them that it is to
take for its own), ``release`` (what it is to take for the kernel's), ``scrub`` (variables to forget), ``readable``
(null where the rest of
this machine is out of reach, else ``binds`` and ``covered`` of what may be read), ``network`` (whether this machine's
is reached) and ``answer`` (where to write). Writes ``{"response": text}``, or ``{"error": text, "missing": module or
null, "kind": class, "file": path or null}``, with ``asked``: addresses of other machines.

It stands alone, with ``another_machine.py`` beside it: no kbuild is importable here but the model's own.
"""

import gc
import importlib.abc
import importlib.machinery
import ipaddress
import json
import logging
import os
import re
import shutil
import site
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Every machine has them; what is in memory that programs share is of one machine.
KERNELS = ("/dev", "/proc", "/sys")
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")  # audit events of programs
SHARED = Path("/dev/shm")  # noqa: S108 - looked at, not written to


class ShippedImports(importlib.abc.MetaPathFinder):
    """Finds the modules that the model ships, in the model's own code."""

    def __init__(self, code: Path, shipped: list[str]) -> None:
        self._code = [str(code)]
        self._shipped = set(shipped)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of a shipped top-level module, None for any other."""
        if path is not None or fullname not in self._shipped:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, self._code)


class HiddenImports:
    """Another finder, which no longer finds certain top-level modules: as if they were not installed."""

    def __init__(
        self, finder: Any, hidden: set[str], distributions: set[str], code: Path, asked: set[str] | None = None
    ) -> None:
        self._finder = finder
        self._hidden = hidden
        self._distributions = distributions
        self._code = code
        self._asked = set() if asked is None else asked

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """What the other finder says; None for what is hidden, which ``asked`` gets the name of."""
        if path is None and fullname in self._hidden:
            self._asked.add(fullname)
            return None
        found: importlib.machinery.ModuleSpec | None = self._finder.find_spec(fullname, path, target)
        return found

    def find_distributions(self, *args: Any, **kwargs: Any) -> Any:
        """What importlib.metadata finds by the other finder, without those that the image would not have."""
        for each in getattr(self._finder, "find_distributions", lambda *_, **__: ())(*args, **kwargs):
            name = re.sub(r"[-_.]+", "-", each.name or "").lower()
            if name not in self._distributions or self._code in Path(str(getattr(each, "_path", "/"))).parents:
                yield each

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def is_inside(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of these folders or below one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


class Reach:
    """An audit hook (PEP 578) that hides files: less than a root of its own, since C libraries do not ask it."""

    def __init__(self, readable: dict[str, Any], own: list[str]) -> None:
        covered = readable["covered"].items()
        # By the names that they have behind links too, since it is these that are asked for.
        self._covered = {place: set(names) for folder, names in covered for place in (folder, os.path.realpath(folder))}
        roots = [*readable["binds"], *own]
        self._roots = list(dict.fromkeys([*roots, *map(os.path.realpath, roots)]))
        # By other programs, before this one began: what it leaves there itself it may read.
        self._shared = [str(path) for path in SHARED.iterdir()] if SHARED.is_dir() else []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise OSError for what is out of reach."""
        if event in STARTS:
            self._check_program(event, args)
        elif event == "ctypes.dlopen" and args and isinstance(args[0], str | bytes) and args[0]:
            self._check_library(os.fsdecode(args[0]))
        if event in ("open", "os.listdir", "os.scandir") and args and isinstance(args[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not self._holds(path):
                raise FileNotFoundError(2, "the image does not have it", os.fsdecode(args[0]))

    def _check_program(self, event: str, args: tuple[Any, ...]) -> None:
        named = "/bin/sh" if event == "os.system" else args[0]
        if event == "subprocess.Popen" and named is None:
            named = args[1][0] if isinstance(args[1], list | tuple) else args[1]
        program = os.fsdecode(named)
        path = shutil.which(program) or program
        # By its own place too: an interpreter is a link to one elsewhere.
        if not any(map(self._holds, (os.path.abspath(path), os.path.realpath(path)))):  # noqa: PTH100
            raise FileNotFoundError(2, "the image does not have it", program)

    def _check_library(self, name: str) -> None:
        folders = [folder for folder in self._covered if Path(folder, name).exists()]
        known = self._holds(os.path.realpath(name)) if "/" in name else not folders
        if not known and not any(name in self._covered[each] for each in folders):
            raise OSError(f"{name}: the image does not have it")

    def _holds(self, path: str) -> bool:
        around = [each for each in self._covered if is_inside(path, [each])]
        if around:
            return all(path[len(each) + 1 :].split("/", 1)[0] in {"", *self._covered[each]} for each in around)
        return is_inside(path, self._roots) or (is_inside(path, KERNELS) and not is_inside(path, self._shared))


class OtherMachines:
    """An audit hook that lets this process connect to other machines, which it writes down, and not to other programs
    of this one."""

    def __init__(self, listening: Callable[[], set[int] | None] | None = None) -> None:
        self.asked: dict[str, None] = {}
        self._listening = listening or find_listening
        self._before = self._listening()
        self._own: set[str] = set()
        self._bound: set[int] = set()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise ConnectionRefusedError for a service of this machine."""
        if event == "socket.bind":
            self._own.add(repr(args[1]))
            if isinstance(args[1], tuple) and len(args[1]) >= 2:
                self._bound.add(args[1][1])
        if event == "socket.connect":
            self._check(args[1])

    def _check(self, address: Any) -> None:
        if isinstance(address, str | bytes):
            # A path is one of the image's own files; an abstract name is known to all of this machine.
            if os.fsencode(address)[:1] == b"\0" and repr(address) not in self._own:
                raise ConnectionRefusedError(111, f"the image has no service {os.fsdecode(address)[1:]!r}")
        elif isinstance(address, tuple) and len(address) >= 2:
            host, port = str(address[0]), address[1]
            if is_loopback(host):
                if not self._is_own(port):
                    raise ConnectionRefusedError(111, f"the image has no service at {host}:{port}")
            else:
                self.asked[f"{host}:{port}"] = None

    def _is_own(self, port: Any) -> bool:
        """Whether this process, or one that it started, listens there."""
        if self._before is None:  # no such list here, so that a port that the system chose may be any
            return bool(self._bound & {0, port})
        return port not in self._before and (port in self._bound or port in (self._listening() or ()))


def find_listening() -> set[int] | None:
    """The TCP ports on which this machine listens, of the tables in proc(5); None where there are none."""
    ports, found = set(), False
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        found = True
        # sl, local_address (hexadecimal ADDRESS:PORT), rem_address, st: 0A is TCP_LISTEN.
        ports |= {int(line[1].rpartition(":")[2], 16) for line in map(str.split, lines) if line[3] == "0A"}
    return ports if found else None


def is_loopback(host: str) -> bool:
    """Whether an address means this very machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or address.is_unspecified or bool(mapped and mapped.is_loopback)


def rename_interpreter(places: dict[str, str]) -> None:
    """Call the interpreter's folders by other names, as the image does: what is in them is found by these, too."""
    folder = next((each for each in places if sys.executable.startswith(f"{each}/")), None)
    if folder is not None:
        sys.executable = places[folder] + sys.executable[len(folder) :]
    for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        setattr(sys, name, places.get(getattr(sys, name), getattr(sys, name)))
    site.PREFIXES[:] = [places.get(each, each) for each in site.PREFIXES]


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Load and predict; errors become the answer, since the caller is another process."""
    model_folder = Path(task["model"])
    hidden = {*task["blocked"], *task["shipped"]}
    shipped = ShippedImports(model_folder / "code", task["shipped"])
    distributions = set(task["hidden"])
    code = model_folder / "code"
    asked: set[str] = set()
    sys.meta_path[:] = [
        shipped, *(HiddenImports(finder, hidden, distributions, code, asked) for finder in sys.meta_path)
    ]  # fmt: skip
    gc.disable()  # a quarter of the time of these imports goes into looking for what they do not leave behind
    try:
        import mlflow.pyfunc
        from mlflow.pyfunc import scoring_server

        gc.freeze()
        gc.enable()
        model = mlflow.pyfunc.load_model(str(model_folder))
        if task["request"] is None:
            return {"response": None}
        response = scoring_server.invocations(
            (model_folder / task["request"]).read_text(encoding="utf-8"),
            "application/json",
            model,
            model.metadata.get_input_schema(),
        )
    except BaseException as error:  # noqa: BLE001 - told to the caller, whatever it is
        return {**find_cause(error), "missing": find_missing(error, asked), "traceback": traceback.format_exc()}
    if response.status != 200:
        return {"error": response.response, "missing": None, "traceback": ""}
    return {"response": response.response}


def find_cause(error: BaseException) -> dict[str, Any]:
    """The innermost cause: in one line, its class, and the file that it names."""
    last = find_chain(error)[-1]
    text = " ".join([f"{type(last).__name__}: {last}", *getattr(last, "__notes__", [])]).strip()
    file = getattr(last, "filename", None)
    named = os.fsdecode(file) if isinstance(file, str | bytes) else None
    return {"error": text, "kind": type(last).__name__, "file": named}


def find_chain(error: BaseException, *, whole: bool = False) -> list[BaseException]:
    """The error and what it came of, outermost first, as a traceback shows them: ``from None`` hides the rest.

    ``whole`` is with what is hidden. A node may make a chain that goes round: each is there once.
    """
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and not any(following is each for each in found):
        found.append(following)
        shown = whole or not following.__suppress_context__
        following = following.__cause__ or (following.__context__ if shown else None)
    return found


def find_missing(error: BaseException, asked: Iterable[str] = ()) -> str | None:
    """The top-level module whose import failed, if that is the cause: of those ``asked`` for, in libraries' words."""
    for each in find_chain(error, whole=True):
        if isinstance(each, ModuleNotFoundError) and each.name:
            return each.name.partition(".")[0]
        if isinstance(each, ImportError):
            named = [name for name in sorted(asked) if re.search(rf"\b{re.escape(name)}\b", str(each))]
            if named:
                return named[0]
    return None


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.umask(0o022)  # as container engines have it
    sys.path.insert(0, str(Path(__file__).parent))
    from another_machine import be_another_machine  # type: ignore[import-not-found]

    del sys.path[0]
    be_another_machine(job["release"])
    for name in job["scrub"]:
        os.environ.pop(name, None)
    rename_interpreter(job["places"])
    if job["readable"] is not None:
        sys.addaudithook(Reach(job["readable"], job["own"]))
    others = OtherMachines()
    if job["network"]:
        sys.addaudithook(others)
    said = answer(job)
    Path(job["answer"]).write_text(json.dumps({**said, "asked": list(others.asked)}), encoding="utf-8")
    gc.freeze()  # the interpreter looks for garbage again before it ends
