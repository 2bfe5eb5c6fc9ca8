"""The code and the requirements of a model: what travels with it, and what an index has to bring.

Code travels when no index has it: the project's package, modules beside it, packages installed from a folder,
and the part of kbuild that runs in the model. Everything else becomes a requirement, pinned as installed.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import groupby
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbuild.errors import RecordingError
from kbuild.progress import at_most
from kbuild.recording.shipment.closure import find_closure, find_owners, is_in_no_index, pin
from kbuild.recording.shipment.deferred_file import write_deferred
from kbuild.recording.shipment.deferring import Deferral, PutOff, plan_deferral
from kbuild.recording.shipment.tracing import COMPILED, find_source, follow_imports, source_beside
from kbuild.shipped import model_files

# What kbuild's own code in a model imports.
_KBUILD_IMPORTS = ("cloudpickle", "mlflow", "pandas")
# What of an installed package's metadata travels with its code: nothing that tells where it was installed from.
_METADATA = ("METADATA", "entry_points.txt", "top_level.txt")
# Of the files whose names begin with a dot, those that are no part of a package; .env and its like hold secrets.
_LEFT_OUT = (
    "__pycache__", "*.pyc", ".git", ".hg", ".svn", ".DS_Store", ".ipynb_checkpoints", ".*_cache", ".venv", ".env*",
    ".netrc", ".pypirc", ".npmrc", ".pgpass", ".git-credentials", ".databrickscfg", ".secrets*", ".aws", ".azure",
    ".ssh", ".gnupg", ".kaggle", ".streamlit", ".config",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipment:
    """Top-level names whose code travels, with their folder or file, and the pinned requirements of that code.

    ``changed`` are the bytes of files that travel otherwise than they are, since some of their imports are put off.
    ``kedro_for`` says which file asks for Kedro, where one does that was to do without.
    """

    code: dict[str, Path]
    requirements: list[Requirement]
    changed: Mapping[Path, bytes] = field(default_factory=dict)
    kedro_for: str | None = None


def plan_shipment(modules: Iterable[str], package_name: str | None, *, lean: bool = False) -> Shipment:
    """Sort the modules that a model refers to, and all that they import, into code and requirements.

    ``package_name`` is the project's package; it travels whole, but only what is reached of it asks for packages.
    ``lean``: imports that only making pipelines needs are put off where nothing else needs Kedro.
    Raises RecordingError naming the modules that nothing can bring into an image.
    """
    sorter = Sorter(package_name)
    modules = sorted(map(sorter.find_real_name, modules))
    reached = follow_imports(modules, sorter.is_own)
    deferral = Deferral()
    if lean and any(map(sorter.needs_kedro, reached.foreign)):
        deferral = plan_deferral(modules, sorter.is_own, sorter.needs_kedro)
        reached = deferral.reach(modules, sorter.is_own)
    lost = sorted(name for name in modules if not sorter.is_known(name.partition(".")[0]))
    if lost:
        raise RecordingError(
            f"the inference pipeline refers to {', '.join(lost)}, which the image would not have",
            hint="put that code into the project's package, or into a module file beside it",
        )
    code = {top: sorter.find_code(top) for top in sorted({name.partition(".")[0] for name in reached.own})}
    if package_name is not None and package_name not in code:
        code[package_name] = sorter.find_code(package_name)
    code.pop("kbuild", None)
    foreign = {*reached.foreign, *_KBUILD_IMPORTS}
    owners = {owner for name in foreign for owner in sorter.find_distributions(name)} - {"kbuild"}
    return Shipment(
        code=code,
        requirements=[pin(name) for name in sorted(owners)],
        changed={source: write_deferred(source, list(each)) for source, each in groupby(deferral.put_off, _source)},
        kedro_for=deferral.reason,
    )


def _source(each: PutOff) -> Path:
    return each.source


def tell_kedro(shipment: Shipment, why: str) -> str:
    """One line for the user: that Kedro is in the image, what that adds, and why it is."""
    every = set(find_closure(shipment.requirements).versions)
    others = find_closure(each for each in shipment.requirements if not brings_kedro(each.name)).versions
    return f"Kedro and {len(every - set(others)) - 1} more packages are in the image: {why}"


@cache
def brings_kedro(distribution_name: str) -> bool:
    """Whether a distribution is Kedro or requires it."""
    return "kedro" in find_closure([Requirement(distribution_name)]).versions


class Sorter:
    """Tells own code from packages of an index, by the metadata of what is installed."""

    def __init__(self, package_name: str | None) -> None:
        self._package = package_name
        self._owners: Mapping[str, list[str]] = find_owners()

    def is_own(self, top: str) -> bool:
        if top == "kbuild" or top in sys.stdlib_module_names or top in sys.builtin_module_names:
            return False
        if top == self._package:
            return True
        owners = self._owners.get(top, [])
        if owners:
            return all(_is_local_name(owner) for owner in owners)
        return find_source(top) is not None

    def is_known(self, top: str) -> bool:
        known = top == "kbuild" or top in sys.stdlib_module_names or top in self._owners
        return known or find_source(top) is not None

    def find_distributions(self, name: str) -> list[str]:
        """The distributions that bring a foreign module; for a namespace shared by several, the one with its file."""
        owners = self._owners.get(name.partition(".")[0], [])
        if "mlflow" in owners:
            # The full package repeats the files of its smaller siblings.
            return ["mlflow"]
        if len(owners) < 2:
            return owners
        source = find_source(name) or find_source(name.rpartition(".")[0])
        return [owner for owner in owners if source is None or _has_file(owner, source)] or owners[:1]

    def needs_kedro(self, name: str) -> bool:
        """Whether a foreign module is Kedro's, or of a distribution that requires Kedro."""
        return any(brings_kedro(each) for each in self.find_distributions(name) if each != "kbuild")

    def find_real_name(self, name: str) -> str:
        """The importable name of a module: compiled ones sometimes call themselves by their last part only."""
        top = name.partition(".")[0]
        source = find_source(name)
        if source is None or top in self._owners or top == self._package:
            return name
        for folder in map(Path, sys.path):
            if folder.name in ("site-packages", "dist-packages") and source.is_relative_to(folder):
                parts = [*source.relative_to(folder).parent.parts, source.name.partition(".")[0]]
                return ".".join(parts) if parts[0] in self._owners else name
        return name

    def find_code(self, top: str) -> Path:
        source = find_source(top)
        if source is None:
            raise RecordingError(f"the code of {top!r} cannot be found, so it cannot travel with the model")
        place = source.parent if source.name == "__init__.py" else source
        compiled = next((each for each in _compiled_in(place) if source_beside(each) is None), None)
        if compiled is not None and top == self._package:
            raise RecordingError(
                f"the project's own {compiled.relative_to(place.parent)} is compiled for one Python and one processor, "
                "and a model carries code as source",
                hint="make a package of its own of it, build its wheel (python3 -m pip wheel), install that from your "
                "package index or a folder (PIP_FIND_LINKS), and import it from there",
            )
        if compiled is not None:
            raise RecordingError(
                f"{top!r} is installed from {_tell_origin(self._owners.get(top, []))} and is compiled, "
                "so neither an index nor the model can bring it into an image",
                hint="publish its wheel to your package index, or put it into a folder (export PIP_FIND_LINKS=FOLDER), "
                "and install it by its name from there",
            )
        return place


def _compiled_in(place: Path) -> list[Path]:
    files = place.rglob("*") if place.is_dir() else [place]
    return sorted(each for each in files if each.suffix in COMPILED)


def tell_compiled(shipment: Shipment) -> list[str]:
    """A line for the user where compiled modules stay here, and their sources do their work in the image."""
    left = [each.relative_to(place.parent) for place in shipment.code.values() for each in _compiled_in(place)]
    if not left:
        return []
    shown = at_most([str(each) for each in left], 3)
    return [f"Compiled for this Python alone, so in the image their sources run instead: {shown}"]


def _tell_origin(owners: list[str]) -> str:
    return "a folder" if not owners else f"a folder, file or repository ({', '.join(owners)})"


def _is_local_name(name: str) -> bool:
    return is_in_no_index(distribution(name))


def _has_file(name: str, source: Path) -> bool:
    found = distribution(name)
    return any(Path(str(found.locate_file(file))) == source for file in found.files or [])


def stage_code(code: Mapping[str, Path], target: Path, changed: Mapping[Path, bytes] | None = None) -> list[str]:
    """Copy code without bytecode, and kbuild's own part, below ``target``; returns MLflow's ``code_paths``.

    ``changed`` files travel with these bytes instead of their own.
    """
    target.mkdir(parents=True, exist_ok=True)
    for place in code.values():
        copy_code(place, target / place.name)
        for source, content in (changed or {}).items():
            if source.is_relative_to(place):
                (target / place.name / source.relative_to(place)).write_bytes(content)
    for top in code:
        _copy_metadata(top, target)
    for name, source in model_files().items():
        copy_code(source, target / name)
    return [str(path) for path in sorted(target.iterdir())]


def find_distributions_of(code: Iterable[str], package_name: str | None) -> set[str]:
    """Names by which requirements may mean code that travels: its modules', their distributions', the project's own."""
    tops = {*code, *([] if package_name is None else [package_name])} - {"kbuild"}
    names = tops | {owner for top in tops for owner in find_owners().get(top, [])}
    source = None if package_name is None else find_source(package_name)
    for folder in () if source is None else (source.parent, *source.parents[1:4]):
        if (stated := _read_project_name(folder / "pyproject.toml")) is not None:
            return names | {stated}
    return names


def _read_project_name(pyproject: Path) -> str | None:
    try:
        name = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {}).get("name")
    except (OSError, ValueError, AttributeError):
        return None  # a folder without one, or with one that others tell of
    return name if isinstance(name, str) else None


def _copy_metadata(top: str, target: Path) -> None:
    """What importlib.metadata finds of a package whose code travels: some ask for their own version."""
    for name in find_owners().get(top) or [top]:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        texts = {each: text for each in _METADATA if (text := found.read_text(each)) is not None}
        folder = target / f"{canonicalize_name(name).replace('-', '_')}-{found.version}.dist-info"
        if "METADATA" in texts:
            folder.mkdir(exist_ok=True)
            for each, text in texts.items():
                (folder / each).write_text(text, encoding="utf-8")


def copy_code(source: Path, destination: Path) -> None:
    """A file, or a folder without what is no part of a package, what holds secrets and what is compiled of a source."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    left_out = shutil.ignore_patterns(*_LEFT_OUT)

    def ignore(folder: str, names: list[str]) -> set[str]:
        return left_out(folder, names) | {each for each in names if source_beside(Path(folder, each)) is not None}

    if source.is_dir():
        shutil.copytree(source, destination, ignore=ignore)
    else:
        shutil.copyfile(source, destination)


def find_blocked(closure_names: Iterable[str], code: Iterable[str]) -> list[str]:
    """Top-level modules that are installed here but would not be in an image of this closure, sorted."""
    present = {canonicalize_name(name) for name in closure_names}
    shipped = {*code, "kbuild"}
    return sorted(top for top, owners in find_owners().items() if top not in shipped and not present & set(owners))
