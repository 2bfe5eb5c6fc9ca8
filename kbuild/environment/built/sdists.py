"""Source distributions: a wheel of one, built in an environment of its own, the same bytes from any folder.

Formats: PEP 517 and PEP 518 (``[build-system]``), PyPA's "Source distribution format".
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from kbuild.cache.room import room_for
from kbuild.digest import digest_file
from kbuild.environment.captured.elf import is_elf, required_glibc
from kbuild.environment.captured.interpreters import find_program
from kbuild.environment.index.pip_settings import read_pip_settings
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import BuildFailed, HashMismatch, ProgramNotFound, SourceOnlyPackage
from kbuild.process import Completed, Runner
from kbuild.progress import Progress

_WORKER = Path(__file__).with_name("sdist_worker.py")
_LEGACY = "setuptools.build_meta:__legacy__"  # PEP 517: what a source tree without a build-system table means
_LEGACY_REQUIRES = ("setuptools>=40.8.0",)
# The first moment that a zip archive, and so a wheel, can name.
_EPOCH = "315532800"
_NATIVE = frozenset({".c", ".cc", ".cpp", ".cxx", ".pyx", ".f", ".f90", ".rs", ".cu"})
_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT = 1800.0
# Of pip's settings those of indexes and of how they are reached. Others would install elsewhere, or not at all.
_TAKEN = (
    *("index-url", "extra-index-url", "find-links", "no-index", "pre", "constraint", "keyring-provider"),
    *("cert", "client-cert", "proxy", "trusted-host", "timeout", "default-timeout", "retries"),
    *("cache-dir", "no-cache-dir", "use-feature", "use-deprecated"),
)
_LIST = "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWheel:
    """A wheel and what it was built from, as the lock's side file keeps it.

    ``python`` is the minor version that built it, ``requires`` are the exact versions of what took part; ``glibc`` is
    the C library that its native code needs, None where it has none.
    """

    name: str
    version: str
    sdist_url: str
    sdist_sha256: str
    filename: str
    sha256: str
    python: str
    requires: tuple[str, ...]
    glibc: str | None

    @property
    def is_pure(self) -> bool:
        """Whether it runs on every platform."""
        return self.glibc is None and all(tag.platform == "any" for tag in parse_wheel_filename(self.filename)[3])


def build_wheel(
    package: LockedPackage,
    sdist: Path,
    *,
    python: str,
    into: Path,
    requires: Sequence[str] | None = None,
    run: Runner,
    environ: Mapping[str, str],
    progress: Progress,
) -> BuiltWheel:
    """Build the wheel of a source distribution for Python ``python`` (``3.11.7``); it lies in ``into``.

    What the build asks for is installed, as wheels and from the indexes of pip's configuration, into an environment
    made for it; ``requires`` are exact versions that an earlier build used. The build itself has no network where the
    kernel lets us take it away. Raises SourceOnlyPackage when it cannot be built here (no such Python, no compiler,
    a build requirement that cannot be had) and BuildFailed when the backend fails.
    """
    what = f"{package.name} {package.version}"
    short = ".".join(python.split(".")[:2])
    interpreter = _interpreter(short, what, run, environ)
    progress.tell(f"building a wheel of {what} from its source distribution")
    with tempfile.TemporaryDirectory(prefix="kbuild-sdist-") as folder:
        build = _Build(Path(folder).resolve(), what, run, environ, progress)
        source = build.unpack(sdist)
        asked, order = _build_system(source)
        build.make_environment(interpreter)
        build.install([*asked, *(requires or ())])
        build.install([*build.ask({**order, "step": "requires"}), *(requires or ())])
        taken = build.installed()
        wheels = build.scratch / "wheels"
        wheels.mkdir()
        name = build.ask({**order, "step": "wheel", "into": str(wheels)})
        wheel = wheels / Path(str(name)).name
        return _keep(wheel, package, short, taken, into, build.scratch / "content")


def _keep(
    wheel: Path, package: LockedPackage, short: str, requires: tuple[str, ...], into: Path, scratch: Path
) -> BuiltWheel:
    what = f"{package.name} {package.version}"
    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)  # noqa: S202 - zipfile keeps members inside
    except (InvalidWheelFilename, zipfile.BadZipFile, OSError) as error:
        raise BuildFailed(f"the build of {what} gave {wheel.name}, which is not a wheel: {error}") from error
    if (name, version) != (canonicalize_name(package.name), Version(package.version)):
        raise BuildFailed(f"the build of {what} gave {wheel.name}, the wheel of another release")
    elves = [path for path in sorted(scratch.rglob("*")) if is_elf(path)]
    built = BuiltWheel(
        name=package.name,
        version=package.version,
        sdist_url=package.url,
        sdist_sha256=package.sha256,
        filename=wheel.name,
        sha256=digest_file(wheel).hex,
        python=short,
        requires=requires,
        glibc=".".join(map(str, required_glibc(elves))) if elves else None,
    )
    target = into / built.sha256 / built.filename
    with room_for(target, wheel.stat().st_size):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(wheel, target)
    return built


class _Build:
    """One build in a scratch folder: its source, its environment, its processes."""

    def __init__(self, scratch: Path, what: str, run: Runner, environ: Mapping[str, str], progress: Progress) -> None:
        self.scratch, self._what, self._run, self._progress = scratch, what, run, progress
        self._python = scratch / "env/bin/python"
        self._environ = environ
        self._native = False

    def unpack(self, sdist: Path) -> Path:
        """The source tree; raises BuildFailed for an archive that is none, or that leads out of its folder."""
        root = self.scratch / "source"
        try:
            if sdist.name.endswith(".zip"):
                with zipfile.ZipFile(sdist) as archive:
                    archive.extractall(root)  # noqa: S202 - zipfile keeps members inside
            else:
                with tarfile.open(sdist) as archive:
                    archive.extractall(root, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
            raise BuildFailed(f"the source distribution of {self._what} cannot be unpacked: {error}") from error
        tops = [path for path in root.iterdir() if path.is_dir()]
        if len(tops) != 1:
            raise BuildFailed(f"the source distribution of {self._what} has not one folder at its top")
        self._native = any(path.suffix in _NATIVE for path in tops[0].rglob("*"))
        return tops[0]

    def make_environment(self, interpreter: str) -> None:
        """An environment without anything in it."""
        done = self._run([interpreter, "-m", "venv", "--without-pip", str(self.scratch / "env")], env=self._clean())
        if done.returncode != 0:
            raise BuildFailed(f"no environment to build {self._what} in: {_last_line(done)}")

    def install(self, requirements: Sequence[str]) -> None:
        """Install from the user's indexes, wheels alone: a build requirement that is built itself could do anything."""
        if not requirements:
            return
        pip = [sys.executable, "-m", "pip", "--python", str(self._python), "--disable-pip-version-check", "install"]
        argv = [*pip, "--quiet", "--no-input", "--only-binary", ":all:", *dict.fromkeys(requirements)]
        done = self._work(argv, self._environ_of_pip())
        if done.returncode != 0:
            raise SourceOnlyPackage(
                f"what {self._what} is built with cannot be installed ({', '.join(requirements)}): {_last_line(done)}",
                hint="see that the package index has wheels of it (pip config list names the index)",
            )

    def installed(self) -> tuple[str, ...]:
        """Exact versions of what is in the environment."""
        done = self._run([str(self._python), "-I", "-c", _LIST], env=self._clean())
        if done.returncode != 0:
            raise BuildFailed(f"what {self._what} is built with cannot be listed: {_last_line(done)}")
        return tuple(sorted(f"{name}=={version}" for name, version in json.loads(done.stdout)))

    def _environ_of_pip(self) -> dict[str, str]:
        given = read_pip_settings(self._run, self._environ)
        taken = {f"PIP_{name.upper().replace('-', '_')}": given[name] for name in _TAKEN if name in given}
        others = {name: value for name, value in self._environ.items() if not name.startswith("PIP_")}
        return {**others, **taken, "PIP_CONFIG_FILE": os.devnull}

    def ask(self, order: Mapping[str, Any]) -> Any:
        """Let the backend do a step; returns its answer."""
        answer = self.scratch / "answer.json"
        answer.unlink(missing_ok=True)
        argv = [*self._without_network(), str(self._python), "-s", str(_WORKER)]
        done = self._work(argv, self._clean(), stdin=json.dumps({**order, "answer": str(answer)}))
        # A backend may end the process as if all were well.
        if done.returncode == 0 and answer.is_file():
            return json.loads(answer.read_text(encoding="utf-8"))
        if self._native and not any(shutil.which(name, path=self._clean()["PATH"]) for name in _COMPILERS):
            raise SourceOnlyPackage(
                f"{self._what} has native code and needs a compiler, and there is none here",
                hint="install gcc and the libraries that it asks for, or put a wheel of it on your package index",
            )
        raise BuildFailed(f"the source distribution of {self._what} does not build: {_last_line(done)}")

    def _work(self, argv: Sequence[str], env: Mapping[str, str], *, stdin: str | None = None) -> Completed:
        try:
            return self._run(argv, env=env, stdin=stdin, timeout=_TIMEOUT)
        except TimeoutError as error:
            raise BuildFailed(f"{self._what} is not built after {_TIMEOUT:g} s") from error

    def _without_network(self) -> list[str]:
        cut = ["unshare", "--map-root-user", "--net", "--"]
        try:
            if self._run([*cut, "true"], env=self._clean()).returncode == 0:
                return cut
        except ProgramNotFound:
            pass
        self._progress.tell("the network cannot be taken from the build here: unshare does not work")
        return []

    def _clean(self) -> dict[str, str]:
        """Nothing of the user's environment but the programs; the same for every build, folder and user."""
        home, temporary = self.scratch / "home", self.scratch / "tmp"
        for path in (home, temporary):
            path.mkdir(exist_ok=True)
        mapped = f"-g0 -ffile-prefix-map={self.scratch}=/build"
        return {
            "PATH": f"{self._python.parent}:{self._environ.get('PATH', os.defpath)}",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONHASHSEED": "0",
            "SOURCE_DATE_EPOCH": _EPOCH,
            "CFLAGS": mapped,
            "CXXFLAGS": mapped,
            "RUSTFLAGS": f"--remap-path-prefix={self.scratch}=/build",
        }


def check_rebuild(built: BuiltWheel, earlier: BuiltWheel) -> None:
    """Raises HashMismatch when a wheel that was built again is not the one that was built before."""
    if built.sha256 != earlier.sha256:
        raise HashMismatch(
            f"building {built.name} {built.version} again gives another wheel: {built.filename} with sha256"
            f" {built.sha256}, not {earlier.filename} with {earlier.sha256}",
            hint="its build is not reproducible here: put the recorded wheel on your package index and lock again",
        )


def _build_system(source: Path) -> tuple[list[str], dict[str, Any]]:
    """What the build asks for at first, and the order for the worker."""
    path = source / "pyproject.toml"
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("build-system", {}) if path.is_file() else {}
        requires = [str(each) for each in table.get("requires", _LEGACY_REQUIRES)]
        backend = str(table.get("build-backend", _LEGACY))
        paths = [str(each) for each in table.get("backend-path", [])]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise BuildFailed(f"{source.name}/pyproject.toml cannot be read: {error}") from error
    legacy = backend == _LEGACY
    return requires, {"source": str(source), "backend": backend, "backend_path": [*paths, *([""] if legacy else [])]}


def _interpreter(short: str, what: str, run: Runner, environ: Mapping[str, str]) -> str:
    found = find_program(short, run=run, environ=environ)
    if found is None:
        raise SourceOnlyPackage(
            f"{what} has to be built with Python {short}, which is not here",
            hint=f"install it: uv python install {short}, or pyenv install {short}",
        )
    return str(found)


def _last_line(done: Completed) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error:", "error "))]
    return (errors or lines or [f"exit code {done.returncode}"])[-1][:400]
