"""What the pickles of a model would import and call when they are loaded.

By an allow-list: what is not known to make data, from the standard library, numpy, pandas (``ordinary``), the
libraries that models are made with (``libraries``), the model's own code or the policy, is a finding. picklescan, whose
list of what is known to be bad is the longest, tells which of those are sure to be dangerous.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from picklescan.scanner import SafetyLevel, scan_pickle_bytes

from kbuild.audit.checks.flavors import code_of_flavors, fetched_by_flavors, find_references, names_of_flavors
from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.pickled.libraries import LIBRARY_NAMES, Libraries
from kbuild.audit.pickled.ordinary import is_answer, is_importable, is_ordinary
from kbuild.audit.pickled.standins import OfClass
from kbuild.audit.pickled.unwrap import PickleStream, Unreadable, pickle_streams
from kbuild.audit.subject import Subject
from kbuild.digest import digest_file

_EXTENSIONS = frozenset(
    {".bin", ".cloudpickle", ".ckpt", ".dat", ".data", ".dill", ".joblib", ".npy", ".npz", ".p", ".pickle", ".pkl"}
    | {".pt", ".pth", ".7z", ".lz4"}
)
_SURE = frozenset({".cloudpickle", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
# Their functions make functions and classes of bytecode in the pickle: those of notebooks, and lambdas.
_CODE_MAKERS = re.compile(
    r"(cloudpickle|dill|(numba|pyspark|ray|joblib\.externals|loky)\.cloudpickle)(\..*)?", re.DOTALL
)
# What runs, opens or imports what its arguments say, in packages that models are served with, beside picklescan's list.
_RUNNERS = (
    "IPython.utils.*", "joblib.load", "joblib.numpy_pickle*.load*", "kbuild.process.*", "mlflow.*.load_model",
    "mlflow.utils.process.*", "numpy.load", "numpy.lib.*.load", "pandas.read_*", "pandas.io.*.read_*", "torch.load",
    "keras.utils.get_file", "keras.*.load_model", "keras.config.*", "keras.src.saving.*",
    "keras.src.utils.config.*", "keras.src.utils.file_utils.*", "keras.src.utils.image_utils.*",
    "keras.src.utils.model_visualization.*", "keras.src.utils.module_utils.*", "keras.src.utils.python_utils.func_*",
    "keras.src.utils.torch_utils.*", "keras.src.utils.*dataset_utils.*",
    "torch.serialization.load", "uvicorn.importer.*", "yaml.*load*", "*._exec_cmd", "*.spawn",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_CODE = "code"  # the folder of a model that its own source travels in


class PickleCheck:
    """A ``Check`` of every file of the model that holds a pickle.

    ``downloads`` is the cache of locked packages; ``allowed`` are names that the policy adds, ``package.module.Class``
    or ``package.*``.
    """

    id = "pickles"

    def __init__(self, *, downloads: Path | None = None, allowed: tuple[str, ...] = ()) -> None:
        self._downloads, self._allowed = downloads, allowed

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        if subject.bundle is None:
            return CheckResult(check=self.id)
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        looked_at, imports = 0, set[str]()
        named = subject.bundle.facts.pickled
        libraries = self._libraries(subject)
        for file in subject.bundle.files:
            expected = PurePosixPath(file.path).suffix in _SURE or file.path in named
            data = (subject.bundle.root / file.path).read_bytes()
            seen = False
            try:
                for stream in pickle_streams(data, expected=expected):
                    if stream.code:
                        findings.append(_lambda(file.path))
                        continue
                    seen = True
                    imports |= {module.partition(".")[0] for module, _ in stream.named if not stream.other}
                    findings += self._judge(file.path, stream, libraries, unchecked)
                    if stream.fault is not None and (expected or stream.named or stream.closed or _is_named(file.path)):
                        unchecked.append(_unchecked(file.path + stream.place, f"it has no proper end: {stream.fault}"))
            except Unreadable as error:
                unchecked.append(_unchecked(file.path, str(error)))
            looked_at += seen
        references, unread = find_references(subject.bundle)
        for path, stream in names_of_flavors(subject.bundle, libraries.own_roots, references):
            imports |= {module.partition(".")[0] for module, _ in stream.named}
            findings += self._judge(path, stream, libraries, unchecked)
        findings += code_of_flavors(references)
        unchecked += [*unread, *fetched_by_flavors(subject.bundle)]
        return CheckResult(
            check=self.id,
            findings=tuple(dict.fromkeys(findings)),
            unchecked=tuple(dict.fromkeys(unchecked)),
            looked_at=looked_at,
            imports=tuple(sorted(imports)),
        )

    def _libraries(self, subject: Subject) -> Libraries:
        assert subject.bundle is not None  # noqa: S101  for the type checker
        downloads = self._downloads
        locked = () if subject.lock is None else subject.lock.entries
        wheels = [each for each in locked if each.manager == "pip" and each.sha256]

        def find(name: str) -> Path | None:
            for entry in wheels:  # one a platform, and not all of them were fetched
                if downloads is None:
                    return None
                path = downloads / str(entry.sha256) / entry.filename
                if entry.canonical == name and path.is_file() and digest_file(path).hex == entry.sha256:
                    return path
            return None

        code = f"{_CODE}/"
        own = {file.path for file in subject.bundle.files if file.path.startswith(code)}
        roots = {path.removeprefix(code).partition("/")[0].removesuffix(".py") for path in own}
        root = subject.bundle.root

        def read(place: str) -> bytes | None:
            return (root / code / place).read_bytes() if code + place in own else None

        return Libraries(wheels=find, own=read, own_roots=_own_only(roots, subject))

    def _judge(
        self, path: str, stream: PickleStream, libraries: Libraries, unchecked: list[Unchecked]
    ) -> Iterator[Finding]:
        place = path + stream.place
        names = dict.fromkeys(stream.named)
        if stream.fault is not None:
            names |= dict.fromkeys(_rough(stream.data))
        makers = sorted({name for module, name in names if _CODE_MAKERS.fullmatch(module)})
        if makers:
            yield Finding(
                id="pickle-code",
                check="pickles",
                severity="medium",
                where=path,
                evidence=f"{place} carries code of its own ({', '.join(makers)}), which no scan can judge",
                remedy="put these functions and classes into the project's package, which travels as source; those "
                "that a library has pickled so (numba) can be accepted for a time with an ignore of id pickle-code",
            )
        unknown = [(told, _class_of(told)) for told in stream.problems if not makers and not self._is_trusted(told)]
        for module, name in sorted(names):
            if _CODE_MAKERS.fullmatch(module) or is_ordinary(module, name) or self._is_allowed(module, name):
                continue
            if makers and name == "getattr":
                continue  # the code that it carries needs none
            if _is_dangerous(module, name):
                yield _dangerous(path, place, f"{module}.{name}")
                continue
            if stream.other and not _NAME.fullmatch(f"{module}.{name}"):
                continue
            if stream.noisy and not is_importable(module):
                continue
            known = libraries.is_data(module, name)
            if known is None:
                unchecked.append(
                    Unchecked(
                        check="pickles",
                        where=place,
                        reason=f"nothing here tells what {module}.{name} is: its package is neither in the cache nor "
                        "installed",
                        remedy="audit where the image was built, or where the model's packages are installed",
                    )
                )
            elif not known and not (makers and module in ("types", "builtins", "abc", "weakref")):
                full = f"{module}.{name}"
                unknown.append((f"would import {full}, which is not known to make data", full))
        for of, name in stream.bound if not makers else ():
            module, _, kind = of.rpartition(".")
            strange = _is_strange(module, kind)
            if of.partition(".")[0] in libraries.own_roots or (strange and self._is_allowed(module, kind)):
                continue
            if strange or (is_answer(name) and libraries.is_data(module, kind)):
                unknown.append((f"holds the method {name} of {of}", of if strange else ""))
            else:
                yield _dangerous(path, place, f"builtins.getattr, for {name} of {of}")
        for of in stream.filled if not makers else ():
            module, _, kind = of.rpartition(".")
            own = module.partition(".")[0] in libraries.own_roots
            if not own and not (of and (_is_strange(module, kind) or self._is_allowed(module, kind))):
                what = f"an object of {of}" if of else "what another call returned"
                unknown.append((f"sets items of {what}, which has a way of its own", of))
        for module, name in stream.constructed:
            if libraries.has_state_only(module, name) and not self._is_allowed(module, name):
                full = f"{module}.{name}"
                told = f"would call the constructor of {full}, which pickle gives its state instead"
                unknown.append((told, full))
        for what, name in unknown:
            entry = f': allowed-pickles = [{{name = "{name}", reason = "…"}}]' if name else " (allowed-pickles)"
            yield Finding(
                id="pickle-unknown",
                check="pickles",
                severity="medium",
                where=path,
                evidence=f"loading {place} {what}",
                remedy="see what the model keeps it for; keep it out of the pickled objects, or allow it in "
                f"[tool.kbuild.audit] with a reason{entry}",
            )

    def _is_trusted(self, told: str) -> bool:
        return isinstance(told, OfClass) and bool(told.of) and self._is_allowed(*told.of.rpartition(".")[::2])

    def _is_allowed(self, module: str, name: str) -> bool:
        full = f"{module}.{name}"
        return any(full == each or (each.endswith(".*") and full.startswith(each[:-1])) for each in self._allowed)


def _is_strange(module: str, name: str) -> bool:
    """Whether it is of a package of which nothing counts as data: to call it is unknown, and so are its methods."""
    known = sys.stdlib_module_names | LIBRARY_NAMES | {"__torch__", "kbuild", "kedro"}
    return module.partition(".")[0] not in known and not is_ordinary(module, name)


def _class_of(told: str) -> str:
    return told.of if isinstance(told, OfClass) else ""


def _own_only(roots: set[str], subject: Subject) -> frozenset[str]:
    """The model's own packages, without those that only have the name of another's: which one is loaded depends."""
    locked = {entry.name.replace("-", "_") for entry in subject.lock.entries} if subject.lock is not None else set()
    taken = sys.stdlib_module_names | locked | LIBRARY_NAMES
    return frozenset(roots - taken - {""})


def _is_dangerous(module: str, name: str) -> bool:
    # A name with dots is taken apart: of logging and os.system the second is what is called. A module's is its own: one
    # called kedro_datasets.pickle is not pickle.
    parts = name.split(".")
    inner = any(_graded(".".join(parts[begin:-1]), parts[-1]) for begin in range(len(parts) - 1))
    return inner or _graded(module, name)


def _graded(module: str, name: str) -> bool:
    if any(fnmatchcase(f"{module}.{name}", pattern) for pattern in _RUNNERS):
        return True
    line = f"c{module}\n{name}\n.".encode("utf-8", "replace")
    return any(found is SafetyLevel.Dangerous for found in _scan(line).values())


def _rough(data: bytes) -> list[tuple[str, str]]:
    """What a stream without a proper end names as far as it can be told without following it."""
    return [place for place, level in _scan(data).items() if place[0] != "unknown" or level is SafetyLevel.Dangerous]


def _scan(data: bytes) -> Mapping[tuple[str, str], SafetyLevel]:
    log = logging.getLogger("picklescan")
    level = log.level
    log.setLevel(logging.CRITICAL)  # its findings are told here, once
    try:
        return {(found.module, found.name): found.safety for found in scan_pickle_bytes(io.BytesIO(data), "x").globals}
    except Exception:  # noqa: BLE001 - what stops it may be made to: of what has no proper end that is told already
        return {}
    finally:
        log.setLevel(level)


def _is_named(path: str) -> bool:
    return PurePosixPath(path).suffix in _EXTENSIONS


def _lambda(path: str) -> Finding:
    return Finding(
        id="model-code",
        check="pickles",
        severity="critical",
        where=path,
        evidence=f"{path} has a Keras layer that holds code or loads some (Lambda, TorchModuleWrapper, TFSMLayer)",
        remedy="make the layer a class of the project's package, and train it again",
    )


def _dangerous(path: str, place: str, name: str) -> Finding:
    return Finding(
        id="pickle-dangerous",
        check="pickles",
        severity="critical",
        where=path,
        evidence=f"loading {place} would call {name}",
        remedy="do not load this model; find out who wrote it, and train it again",
    )


def _unchecked(where: str, reason: str) -> Unchecked:
    return Unchecked(
        check="pickles", where=where, reason=reason, remedy="log the model again; do not load it before you know why"
    )
