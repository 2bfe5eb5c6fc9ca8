"""What one pickle stream does that data never does: what it names, calls, holds and fills, each judged."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from picklescan.scanner import SafetyLevel, scan_pickle_bytes

from kbuild.audit.finding import Finding, Unchecked
from kbuild.audit.pickled.libraries import LIBRARY_NAMES, Libraries
from kbuild.audit.pickled.ordinary import is_answer, is_importable, is_ordinary
from kbuild.audit.pickled.standins import OfClass
from kbuild.audit.pickled.unwrap import PickleStream

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unknown:
    """Something of which nobody knows that it makes data alone; ``name`` is what a policy can allow, if anything."""

    told: str
    name: str


_Judged = Finding | Unchecked | _Unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """``allowed`` are names that the policy adds, ``package.module.Class`` or ``package.*``."""

    libraries: Libraries
    allowed: tuple[str, ...]

    def of_stream(self, path: str, stream: PickleStream) -> Iterator[Finding | Unchecked]:
        """What is wrong with a stream of the file ``path``, or cannot be told; what is only unknown comes last."""
        place = path + stream.place
        names = dict.fromkeys(stream.named)
        if stream.fault is not None:
            names |= dict.fromkeys(_rough(stream.data))
        makers = sorted({name for module, name in names if _CODE_MAKERS.fullmatch(module)})
        if makers:
            yield _code(path, place, makers)
        unknown = []
        for each in self._parts(path, stream, sorted(names), has_code=bool(makers)):
            if isinstance(each, _Unknown):
                unknown.append(each)
            else:
                yield each
        yield from (_not_known(path, place, each) for each in unknown)

    def _parts(
        self, path: str, stream: PickleStream, names: list[tuple[str, str]], *, has_code: bool
    ) -> Iterator[_Judged]:
        if not has_code:
            for told in stream.problems:
                if not self._is_trusted(told):
                    yield _Unknown(told=told, name=_class_of(told))
        for module, name in names:
            yield from self._of_name(path, stream, module, name, has_code=has_code)
        if not has_code:
            yield from self._of_methods(path, stream)
            yield from self._of_filled(stream)
        for module, name in stream.constructed:
            if self.libraries.has_state_only(module, name) and not self._is_allowed(module, name):
                full = f"{module}.{name}"
                told = f"would call the constructor of {full}, which pickle gives its state instead"
                yield _Unknown(told=told, name=full)

    def _of_name(self, path: str, stream: PickleStream, module: str, name: str, *, has_code: bool) -> Iterator[_Judged]:
        if _CODE_MAKERS.fullmatch(module) or is_ordinary(module, name) or self._is_allowed(module, name):
            return
        if has_code and name == "getattr":
            return  # the code that it carries needs none
        full, place = f"{module}.{name}", path + stream.place
        if _is_dangerous(module, name):
            yield _dangerous(path, place, full)
            return
        if (stream.other and not _NAME.fullmatch(full)) or (stream.noisy and not is_importable(module)):
            return
        known = self.libraries.is_data(module, name)
        if known is None:
            yield Unchecked(
                check="pickles",
                where=place,
                reason=f"nothing here tells what {full} is: its package is neither in the cache nor installed",
                remedy="audit where the image was built, or where the model's packages are installed",
            )
        elif not known and not (has_code and module in ("types", "builtins", "abc", "weakref")):
            yield _Unknown(told=f"would import {full}, which is not known to make data", name=full)

    def _of_methods(self, path: str, stream: PickleStream) -> Iterator[_Judged]:
        for of, name in stream.bound:
            module, _, kind = of.rpartition(".")
            strange = _is_strange(module, kind)
            if of.partition(".")[0] in self.libraries.own_roots or (strange and self._is_allowed(module, kind)):
                continue
            if strange or (is_answer(name) and self.libraries.is_data(module, kind)):
                yield _Unknown(told=f"holds the method {name} of {of}", name=of if strange else "")
            else:
                yield _dangerous(path, path + stream.place, f"builtins.getattr, for {name} of {of}")

    def _of_filled(self, stream: PickleStream) -> Iterator[_Judged]:
        for of in stream.filled:
            module, _, kind = of.rpartition(".")
            own = module.partition(".")[0] in self.libraries.own_roots
            if not own and not (of and (_is_strange(module, kind) or self._is_allowed(module, kind))):
                what = f"an object of {of}" if of else "what another call returned"
                yield _Unknown(told=f"sets items of {what}, which has a way of its own", name=of)

    def _is_trusted(self, told: str) -> bool:
        return isinstance(told, OfClass) and bool(told.of) and self._is_allowed(*told.of.rpartition(".")[::2])

    def _is_allowed(self, module: str, name: str) -> bool:
        full = f"{module}.{name}"
        return any(full == each or (each.endswith(".*") and full.startswith(each[:-1])) for each in self.allowed)


def _is_strange(module: str, name: str) -> bool:
    """Whether it is of a package of which nothing counts as data: to call it is unknown, and so are its methods."""
    known = sys.stdlib_module_names | LIBRARY_NAMES | {"__torch__", "kbuild", "kedro"}
    return module.partition(".")[0] not in known and not is_ordinary(module, name)


def _class_of(told: str) -> str:
    return told.of if isinstance(told, OfClass) else ""


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


def _code(path: str, place: str, makers: list[str]) -> Finding:
    return Finding(
        id="pickle-code",
        check="pickles",
        severity="medium",
        where=path,
        evidence=f"{place} carries code of its own ({', '.join(makers)}), which no scan can judge",
        remedy="put these functions and classes into the project's package, which travels as source; those "
        "that a library has pickled so (numba) can be accepted for a time with an ignore of id pickle-code",
    )


def _not_known(path: str, place: str, unknown: _Unknown) -> Finding:
    name = unknown.name
    entry = f': allowed-pickles: [{{name: "{name}", reason: "…"}}]' if name else " (allowed-pickles)"
    return Finding(
        id="pickle-unknown",
        check="pickles",
        severity="medium",
        where=path,
        evidence=f"loading {place} {unknown.told}",
        remedy="see what the model keeps it for; keep it out of the pickled objects, or allow it in "
        f"kbuild.yml's audit with a reason{entry}",
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
