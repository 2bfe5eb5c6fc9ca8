"""One platform of one spec through conda-lock, until every constraint holds."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kbuild.digest import Digest
from kbuild.environment.bounds import applicable_bounds
from kbuild.environment.condalock import source
from kbuild.environment.condalock.ahead import UNREAD
from kbuild.environment.condalock.failures import (
    explain_failure,
    is_channel_failure,
    lagging_requirement,
    source_only_hint,
)
from kbuild.environment.condalock.lacking import WantedFiles, platform_error, unfit_error, withdrawn_error
from kbuild.environment.condalock.solver import find_solver
from kbuild.environment.hashes import allowed_hashes
from kbuild.environment.index.download import make_session
from kbuild.environment.index.file_choice import BinaryChoice
from kbuild.environment.index.package_indexes import Indexes, IndexFile, find_files, releases_of
from kbuild.environment.lockfile import LockedPackage, load_lock, lock_bytes
from kbuild.environment.requirements import applicable
from kbuild.environment.spec import EnvironmentSpec
from kbuild.environment.target import Target
from kbuild.errors import (
    BaseImageError,
    KbuildError,
    PackageNotFound,
    PlatformError,
    ResolverFailed,
    SourceOnlyPackage,
    VersionConflict,
)
from kbuild.http import ThreadSessions
from kbuild.managers.conda_names import Names, pip_name
from kbuild.platform import Platform, host_platform
from kbuild.process import Runner
from kbuild.progress import Progress

_LAUNCHER = Path(__file__).with_name("launcher.py")
_TIMEOUT = 1800.0
# What a solver says of one package where others may be in the same state.
_OF_ONE = (ResolverFailed, PackageNotFound, BaseImageError, PlatformError, VersionConflict)
# A constraint that an answer misses becomes a requirement of the next question.
_ROUNDS = 3


class UnreadSdists(SourceOnlyPackage):
    """Of what would be locked there are source distributions alone, and none says by itself what it depends on."""

    def __init__(self, lines: str, platform: Platform) -> None:
        found = {tuple(json.loads(line)) for line in lines.splitlines()}
        self.sdists = [
            LockedPackage(name=name, version=version, manager="pip", platform=platform, url=url, sha256=sha256)
            for name, version, url, sha256 in sorted(found)
        ]
        names = list(dict.fromkeys(f"{each.name} {each.version}" for each in self.sdists))
        super().__init__(
            f"of {', '.join(names)}, the package index has only source distributions",
            hint=source_only_hint(self.sdists[0].name),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformSolve:
    """All that decides the answer for one platform, and what is needed to ask. ``wheels`` are urls of further ones, on
    this machine, to choose from."""

    spec: EnvironmentSpec
    indexes: tuple[str, ...]
    platform: Platform
    channels: tuple[str, ...]
    glibc: str
    target: Target = Target()  # noqa: RUF009  frozen
    input_digest: Digest
    run: Runner
    environ: Mapping[str, str] = field(repr=False)
    solver: Path | None
    progress: Progress
    downloads: Path | None = None
    binary: BinaryChoice = BinaryChoice()  # noqa: RUF009  frozen
    bounds: Sequence[str] = ()
    wheels: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """conda-lock's lockfile of this platform, parsed; raises as ``Resolver.resolve`` says."""
        pip = applicable(self.spec.pip, self.spec.python, self.platform)
        pins = applicable(self.spec.constraints, self.spec.python, self.platform)
        # Of packages that nobody may ask for: no page of an index is asked for by them.
        bounds = applicable_bounds(self.bounds, self.spec, self.platform)
        pip |= {name: _narrowed(pip[name], bounds[name].specifier) for name in pip.keys() & bounds.keys()}
        conda = list(self.spec.conda)
        missed: dict[str, Mapping[str, Any]] = {}
        for _ in range(_ROUNDS + (_ROUNDS if bounds else 0)):
            document = self._solve(conda, pip, pins)
            missed = missed_constraints(document["package"], pins, self.spec.names)
            wheels = [package for package in document["package"] if package["manager"] == "pip"]
            missed |= missed_constraints(wheels, bounds)
            if not missed:
                self._note_strangers(document["package"], pins)
                return document
            for name, package in missed.items():
                if package["manager"] == "conda":
                    conda.append(f"{package['name']} {pins[name].specifier}")
                else:
                    wanted = (pins.get(name) or bounds[name]).specifier
                    pip[name] = _narrowed(pip.get(name, Requirement(name)), wanted)
        raise VersionConflict(
            "the solver does not keep to the versions of the training environment, or to pip's constraint: "
            + ", ".join(f"{pins.get(name) or bounds[name]} became {each['version']}" for name, each in missed.items())
        )

    def _solve(
        self, conda: Sequence[str], pip: Mapping[str, Requirement], pins: Mapping[str, Requirement]
    ) -> dict[str, Any]:
        document, stderr = self._ask(conda, pip, pins)
        if document is not None:
            return document
        indexes = Indexes(urls=self.indexes, find_links=self.spec.find_links)
        with ThreadSessions(lambda: make_session(self.environ)) as sessions:

            def files(name: str) -> list[IndexFile]:
                return find_files(name, indexes, environ=self.environ, session=sessions.mine())

            wanted = WantedFiles(python=self.spec.python, platform=self.platform, glibc=self.glibc)

            def unfit(name: str, specifier: SpecifierSet) -> KbuildError | None:
                found = wanted.judge(name, files(name), specifier)
                if found is not None:
                    return unfit_error((found,), wanted, self.target)
                return withdrawn_error(name, files(name), specifier)

            error = explain_failure(
                stderr, releases=lambda name: releases_of(files(name)), unfit=unfit, conda=self.spec.conda
            )
            of_channel, foreign = is_channel_failure(stderr), self.platform != host_platform()
            if (of_channel and foreign) or (isinstance(error, _OF_ONE) and not of_channel):
                # The solver stops at the first of them; whoever has to provide them wants to know all.
                without = wanted.find_without_wheel({**pins, **pip}, files)
                if not foreign and not isinstance(error, ResolverFailed):
                    # Source distributions are something else: they can be built here.
                    without = tuple(each for each in without if not each.sdist)
                if of_channel:
                    raise platform_error(self.platform, error, without) from error
                if without:
                    raise unfit_error(without, wanted, self.target) from error
        raise self._with_offer(error, stderr, pip)

    def _with_offer(self, error: KbuildError, stderr: str, pip: Mapping[str, Requirement]) -> KbuildError:
        """An index can lag behind itself, a release be there without what it pins: then offer one that solves."""
        name, version = lagging_requirement(stderr) or ("", "")
        if not isinstance(error, PackageNotFound) or name not in pip:
            return error
        self.progress.tell(f"The index lags behind {name} {version}; looking for the newest version that solves")
        older = _narrowed(Requirement(name), SpecifierSet(f"<{version}"))
        document, _ = self._ask((), {name: older}, {})
        for package in document["package"] if document is not None else ():
            if package["name"] == name:
                offer = f"{name} {package['version']} solves here; log the model with that version"
                return PackageNotFound(error.message, hint=offer)
        return error

    def _ask(
        self, conda: Sequence[str], pip: Mapping[str, Requirement], pins: Mapping[str, Requirement]
    ) -> tuple[dict[str, Any] | None, str]:
        """Run conda-lock once; returns its lockfile, None where it failed, and what it said."""
        is_captured = self.spec.interpreter != "conda" and self.platform == host_platform()
        setting = source.Setting(
            python=self.spec.python,
            python_pin="" if is_captured else self.spec.python_pin,
            platform=self.platform,
            channels=self.channels,
            indexes=self.indexes,
            find_links=(*self.spec.find_links, *self.wheels),
            glibc=self.glibc,
            input_digest=self.input_digest,
            names=self.spec.names,
            downloads=self.downloads,
            hashes=allowed_hashes(self.spec.hashes, self.spec.python, self.platform),
            binary=self.binary.told(self.spec.choices),
            built=self.wheels,
        )
        files = source.make_source(setting, conda=conda, pip=pip, pins=pins)
        with tempfile.TemporaryDirectory(prefix="kbuild-lock-") as scratch:
            folder = Path(scratch)
            for name, text in files.items():
                (folder / name).write_text(text, encoding="utf-8")
            solver = self.solver or find_solver(folder)
            doing = f"resolving {len(pip)} requirements for {self.platform} with {solver.name}"
            self.progress.note(doing)
            sources = [name for name in (source.ENVIRONMENT, source.PYPROJECT) if name in files]
            begun = time.monotonic()
            try:
                completed = self.run(
                    _command(solver, sources),
                    env=self._environ(folder),
                    cwd=folder,
                    on_line=lambda _: self.progress.note(doing),  # it lives; its own words are for its authors
                    timeout=_TIMEOUT,
                )
            except TimeoutError as error:
                raise ResolverFailed(f"conda-lock found no answer in {_TIMEOUT / 60:g} minutes") from error
            self.progress.note(f"conda-lock took {time.monotonic() - begun:.1f} s")
            if completed.returncode != 0:
                if (folder / UNREAD).is_file():
                    raise UnreadSdists((folder / UNREAD).read_text("utf-8"), self.platform)
                return None, completed.stderr
            written = folder / source.LOCKFILE
            return load_lock(lock_bytes(written), source="conda-lock's answer"), completed.stderr

    def _environ(self, folder: Path) -> dict[str, str]:
        # What is set for a shell's conda or for the user's poetry must not decide what an image holds.
        kept = {
            name: value
            for name, value in self.environ.items()
            if not name.startswith(("CONDA_OVERRIDE_", "CONDA_LOCK_", "POETRY_"))
        }
        return {**kept, "POETRY_CONFIG_DIR": str(folder), "PYTHONWARNINGS": "ignore"}

    def _note_strangers(self, packages: Sequence[Mapping[str, Any]], pins: Mapping[str, Requirement]) -> None:
        if not pins:
            return
        strangers = sorted(p["name"] for p in packages if p["manager"] == "pip" and p["name"] not in pins)
        if strangers:
            self.progress.tell(f"Not recorded at training, now in the lock: {', '.join(strangers)}")


def missed_constraints(
    packages: Sequence[Mapping[str, Any]], pins: Mapping[str, Requirement], names: Names = ()
) -> dict[str, Mapping[str, Any]]:
    """The locked packages that do not fit their constraint, by the constraint's name."""
    missed: dict[str, Mapping[str, Any]] = {}
    for package in packages:
        if package["manager"] == "conda":
            if "python" not in package.get("dependencies", {}):
                continue  # a library or program that only shares the name of a Python distribution
            name = canonicalize_name(pip_name(package["name"], names))
        else:
            name = canonicalize_name(package["name"])
        if name in pins and not _fits(str(package["version"]), pins[name].specifier):
            missed[name] = package
    return missed


def _fits(version: str, specifier: SpecifierSet) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _narrowed(requirement: Requirement, specifier: SpecifierSet) -> Requirement:
    narrowed = Requirement(str(requirement))
    narrowed.specifier &= specifier
    return narrowed


def _command(solver: Path, sources: Sequence[str]) -> list[str]:
    # -P: the folder of the script is not a place to import from.
    command = [sys.executable, "-P", str(_LAUNCHER), "lock", "--conda", str(solver)]
    for name in sources:
        command += ["--file", name]
    return [
        *command,
        *("--lockfile", source.LOCKFILE),
        *("--virtual-package-spec", source.VIRTUAL_PACKAGES),
        *("--pypi_to_conda_lookup_file", source.NAMES),
        *("--metadata-yaml", source.METADATA),
        "--strip-auth",
    ]
