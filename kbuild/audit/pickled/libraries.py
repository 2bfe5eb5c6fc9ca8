"""Classes of the libraries that models are made with, looked up in the libraries' own files and never imported.

The files are those of the lock's wheel where it is in the cache, its sha256 compared, else those installed beside
kbuild. A class counts where its module defines it, by Python's own grammar: what a module only imports (``os`` in it,
or ``Popen``) is none of its classes. Compiled modules say no names; of those, classes and Cython's own functions that
put an object together again count by their form. What a package's ``__init__.py`` takes from a module below it, and
passes on (``sklearn.linear_model.Ridge``), counts as what it is there.
"""

from __future__ import annotations

import ast
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.audit.pickled.ordinary import OF_LIBRARIES
from kbuild.audit.pickled.standins import OPENERS
from kbuild.audit.sources.definitions import Read, definitions, is_reduced, parsed, passed_on

# The classes of TorchScript, which torch makes of the code beside the pickle: Python has no such module.
_SCRIPT = "__torch__"
_CYTHON = re.compile(r"_?[A-Z]\w*|[sdcz][A-Z]\w*|__pyx_unpickle_\w+|newObj")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Library:
    """One of ``distributions`` brings it; below ``parts`` are its data classes (none: everywhere), never below
    ``without``."""

    distributions: tuple[str, ...]
    parts: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _library(distributions: str, parts: str = "", without: str = "") -> _Library:
    return _Library(
        distributions=tuple(distributions.split()), parts=frozenset(parts.split()), without=frozenset(without.split())
    )


# Left out are parts whose classes open files or run programs when they are made. scipy's distributions (scipy.stats)
# run a text out of their own pickle when they are loaded (rv_generic.__setstate__), so no scan can judge them.
_LIBRARIES: Mapping[str, _Library] = {
    "catboost": _library("catboost", "core"),
    "category_encoders": _library("category_encoders", without="utils datasets"),
    "feature_engine": _library("feature_engine", without="_docstrings datasets"),
    # Its own module has a class that imports what its state names.
    "imblearn": _library("imbalanced-learn", "base combine ensemble over_sampling pipeline under_sampling"),
    # Models as they pickle themselves: what they are made of again is judged as a file of its own.
    "keras": _library("keras", "src.models src.utils.tracking"),
    "lightgbm": _library("lightgbm", "basic engine sklearn callback"),
    "networkx": _library("networkx", "classes"),
    "polars": _library("polars polars-lts-cpu polars-u64-idx", "dataframe series datatypes schema"),
    "scipy": _library("scipy", "sparse interpolate spatial optimize special cluster"),
    # What a callback holds connects to any address when it is loaded (sklearn/callback/_transport.py).
    "sklearn": _library(
        "scikit-learn",
        without="datasets externals tests conftest _build_utils experimental _min_dependencies callback utils.parallel "
        "utils._testing utils._mocking utils.estimator_checks",
    ),
    "statsmodels": _library("statsmodels", without="datasets tests tools graphics iolib sandbox"),
    "torch": _library("torch", "nn optim _tensor storage torch_version distributions ao.nn.quantized ao.nn.intrinsic"),
    "xgboost": _library("xgboost xgboost-cpu", "core sklearn callback"),
}
LIBRARY_NAMES = frozenset({*_LIBRARIES, "numpy", "pandas", "joblib", "mlflow", "cloudpickle"})
"""By which a pickle names what counts as data."""
# Modules whose public functions compute from arrays, and are held by models: scores and steps. Those of
# sklearn.metrics._scorer call what they are told to of what they are given.
_COMPUTING = re.compile(
    r"sklearn\.(metrics\.(_classification|_regression|_ranking|pairwise|cluster\._\w+)"
    r"|feature_selection\._(univariate_selection|mutual_info))"
)
# What is compiled and made with arguments when it is loaded: numbers, and arrays.
_MADE = re.compile(
    r".*\.(__pyx_unpickle_\w+|newObj)|sklearn\.(tree\._tree\.Tree|_loss\._loss\.\w+|linear_model\._?sgd_fast\.\w+)"
    r"|statsmodels\.tsa\..*|torch\._C\.Generator"
)
# Of these modules no other class counts: their others open what they are given the name of.
_ONLY = {
    "catboost.core": re.compile(r"CatBoost\w*|_CatBoostBase"),
    "keras.src.utils.tracking": re.compile("Tracked(Dict|List|Set)"),
    "lightgbm.basic": re.compile("Booster"),
    # Views of data call methods of the graph that their state names.
    "networkx.classes.reportviews": re.compile(r"\w*(Node|Edge|Degree)View"),
    "xgboost.core": re.compile("Booster"),
}


# Of other names these are not looked into as they have to be.
_BY_MODULE = re.compile(r"statsmodels\.base\.data")
_CLASS = re.compile(r"[A-Z]\w*|\w+_(array|matrix)|interp1d")
_PASSED = 64  # packages that pass one name on to each other


@dataclass(slots=True)
class Libraries:
    """Answers of one audit; ``wheels`` finds the file of a locked wheel by its canonical name."""

    wheels: Callable[[str], Path | None] = lambda name: None
    own: Read | None = None
    own_roots: frozenset[str] = frozenset()
    _defined: dict[str, frozenset[str] | None] = field(default_factory=dict)
    _stated: dict[str, frozenset[str] | None] = field(default_factory=dict)
    _files: dict[str, Read | None] = field(default_factory=dict)
    _passed: dict[str, tuple[dict[str, tuple[str, str]], tuple[str, ...]]] = field(default_factory=dict)

    def is_data(self, module: str, name: str) -> bool | None:
        """Whether it is a class of a known library or of the model's own code; None where no file tells."""
        if name in OF_LIBRARIES.get(module, ()):
            return True
        if not re.fullmatch(r"[A-Za-z_][\w.]*", module) or not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return False
        root = module.partition(".")[0]
        if root == _SCRIPT and root not in self.own_roots:
            return "." not in name
        if root in self.own_roots and self.own is not None:
            return name in (definitions(module, self.own, functions=True, nested=True) or ())
        if "." in name:
            return False
        library = _LIBRARIES.get(root)
        if library is None:
            return False
        known = self._is_data(module, name, library)
        return self._is_passed_on(module, name, library) if known is False else known

    def _is_data(self, module: str, name: str, library: _Library) -> bool | None:
        if not _is_below(module, library):
            return False
        if module in _ONLY and not _ONLY[module].fullmatch(name):
            return False
        read = self._read(library.distributions)
        if read is None:
            return None
        if module not in self._defined:
            computes = _COMPUTING.fullmatch(module) is not None
            self._defined[module] = definitions(module, read, functions=computes)
        defined = self._defined[module]
        if defined is None:
            return _CYTHON.fullmatch(name) is not None and _is_compiled(module, read)
        return name in defined

    def _is_passed_on(self, module: str, name: str, library: _Library) -> bool:
        """Whether it is another name of a class that is data: what of it is looked at by its module is none."""
        of = self._origin(module, name, library)
        if of == (module, name) or of in OPENERS or _BY_MODULE.match(of[0]) or not _CLASS.fullmatch(of[1]):
            return False
        return bool(self._is_data(*of, library))

    def _origin(self, module: str, name: str, library: _Library) -> tuple[str, str]:
        """Where a class is defined, as far as packages that pass it on tell: itself, where none does."""
        read = self._read(library.distributions)
        pending, seen = [(module, name)], set[tuple[str, str]]()
        while pending and read is not None and len(seen) < _PASSED:
            each = pending.pop()
            seen.add(each)
            if each != (module, name) and self._is_data(*each, library):
                return each
            if each[0] not in self._passed:
                self._passed[each[0]] = passed_on(each[0], read)
            names, whole = self._passed[each[0]]
            pending += [names[each[1]]] if each[1] in names else [(of, each[1]) for of in reversed(whole)]
            pending = [of for of in pending if of not in seen]
        return module, name

    def has_state_only(self, module: str, name: str) -> bool:
        """Whether it is a class of a library whose objects pickle gives a state and never arguments: its source tells
        of no other way. A constructor may call what it is given."""
        library = _LIBRARIES.get(module.partition(".")[0])
        if library is None:
            return False
        if not self._is_data(module, name, library):
            module, name = self._origin(module, name, library)
        if module not in self._stated:
            read = self._read(library.distributions)
            tree = None if read is None else parsed(module, read)
            classes = (each for each in ast.walk(tree or ast.Pass()) if isinstance(each, ast.ClassDef))
            self._stated[module] = frozenset(each.name for each in classes if not is_reduced(each))
            if tree is None and read is not None and _is_compiled(module, read):
                self._stated[module] = None
        stated = self._stated[module]
        return _MADE.fullmatch(f"{module}.{name}") is None if stated is None else name in stated

    def _read(self, distributions: tuple[str, ...]) -> Read | None:
        first = distributions[0]
        if first not in self._files:
            wheels = (self.wheels(canonicalize_name(each)) for each in distributions)
            wheel = next((each for each in wheels if each is not None), None)
            installed = (found for each in distributions if (found := _installed(each)) is not None)
            self._files[first] = next(installed, None) if wheel is None else _in_wheel(wheel)
        return self._files[first]


def _is_below(module: str, library: _Library) -> bool:
    inside = module.partition(".")[2]
    names = inside.split(".")
    if any(name in library.without or name == "tests" for name in (*names, inside)):
        return False
    if any(f"{inside}.".startswith(f"{part}.") for part in library.parts if "." in part):
        return True
    return not library.parts or names[0] in library.parts or names[0].removeprefix("_") in library.parts


_LARGEST = 8 << 20  # bytes of a source: the longest of these libraries has a tenth of it
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError)


def _in_wheel(path: Path) -> Read | None:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile):
        return None
    names = frozenset(archive.namelist())

    def read(place: str) -> bytes | None:
        if place in names:
            try:
                return archive.read(place) if archive.getinfo(place).file_size <= _LARGEST else None
            except _DAMAGE:
                return None
        found = any(name.startswith(f"{place}.") and name.endswith(".so") for name in names)
        return b"" if found else None

    return read


def _installed(distribution: str) -> Read | None:
    try:
        files = metadata.distribution(distribution).files
    except metadata.PackageNotFoundError:
        return None
    by_name = {file.as_posix(): file for file in files or ()}

    def read(place: str) -> bytes | None:
        if place in by_name:
            try:
                return Path(str(by_name[place].locate())).read_bytes()
            except OSError:
                return None
        return b"" if any(name.startswith(f"{place}.") and name.endswith(".so") for name in by_name) else None

    return read


def _is_compiled(module: str, read: Read) -> bool:
    return read(module.replace(".", "/")) == b""
