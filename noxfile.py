"""The commands, ``nox -s demo | tests | lint | integration | bench | load | minimum | next | cover | mutants``; each
makes its own venv.

``tests`` is a session for each supported Python that is there (``tests-3.13``), and says which are not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

# A file a worker: some files' tests share what they made. As they come: ordered by the number of their tests, some that
# take long are the last, and one worker waits for the other. One worker more than processors: a quarter of their time
# the tests wait, for what they started to answer or to end.
SIDE_BY_SIDE = ("-n", str((os.cpu_count() or 1) + 1), "--dist", "loadfile", "--no-loadscope-reorder")
SUPPORTED = ["3.11", "3.12", "3.13"]
UV = "uv>=0.5"
# The rooms that compose others, and the least part of their lines that the cheap tests run.
COMPOSING = ("workflow", "verify", "cli", "doctor", "init", "api")
COVERED = 78
# GB that the integration session fills at most, measured; with less, one test after another fails for it.
NEEDED_DISK = 30
# Short modules of them, and the tests that are quick to say what a mutant of each breaks.
MUTATED = {
    "kbuild/image/deliver/naming.py": ("tests/image/test_naming.py",),
    "kbuild/workflow/once.py": ("tests/workflow/test_shared.py",),
    "kbuild/workflow/large.py": ("tests/workflow/test_large.py",),
    "kbuild/workflow/base_check.py": ("tests/workflow/test_base_check.py",),
    "kbuild/workflow/template_check.py": ("tests/workflow/test_template_check.py",),
    "kbuild/workflow/many.py": ("tests/workflow/test_many.py",),
    "kbuild/verify/golden.py": ("tests/verify/test_golden.py",),
}


def is_there(python: str) -> bool:
    """Whether this Python runs here. pyenv has commands for versions that it does not run: its folder is tried too."""
    if sys.version_info[:2] == tuple(map(int, python.split("."))):
        return True
    if _runs(shutil.which(f"python{python}")):
        return True
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for folder in versions.glob(f"{python}.*/bin"):
        if _runs(str(folder / f"python{python}")):
            os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
            return True
    return False


def _runs(command: str | None) -> bool:
    """Also with what its builder may have lacked the libraries for: a Python without them installs no package."""
    asked = [str(command), "-c", "import ctypes, sqlite3, ssl"]
    return command is not None and subprocess.run(asked, capture_output=True, check=False).returncode == 0


THERE = list(filter(is_there, SUPPORTED))
# The ones between the oldest and the newest add time to CI and rarely news.
TESTED = sorted({THERE[0], THERE[-1]}, key=SUPPORTED.index) if THERE and os.environ.get("CI") else THERE


def set_environment(session: nox.Session) -> None:
    """What every session's programs see. Empty is as unset for both variables of Python."""
    # nox itself may have come by PYTHONPATH (see the README); its packages must not shadow the session's.
    session.env["PYTHONPATH"] = ""
    # Some images set it. The tests start some thousand processes, and each would compile again what it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.env["DO_NOT_TRACK"] = "1"


def install(session: nox.Session, *extras: str) -> None:
    """Install kbuild as users get it: built into a wheel, not linked to the checkout."""
    set_environment(session)
    session.install("--quiet", f".[{','.join(extras)}]", silent=False)


@nox.session
def demo(session: nox.Session) -> None:
    """Train, lock, build, run and score the demo project; options go to ``kbuild demo``."""
    install(session, "build", "demo")
    session.run("kbuild", "demo", *session.posargs)


@nox.session(python=TESTED)
def tests(session: nox.Session) -> None:
    """The cheap tests: no network, no daemon. On each supported Python here; in CI on the oldest and the newest.

    ``-- -m slow`` runs those instead that train whole projects and start programs, ``-- tests`` all of them.
    """
    if missing := [each for each in SUPPORTED if each not in THERE]:
        session.warn(f"not tested, for they are not on this machine: Python {', '.join(missing)}")
    install(session, "build", "demo", "test")
    session.run("pytest", *SIDE_BY_SIDE, *(session.posargs or ["-m", "not slow"]))


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, mypy and the floors."""
    install(session, "build", "demo", "test", "lint")
    session.run("ruff", "check", ".")
    # A preview rule: no file is read or written by the letters of the locale.
    session.run("ruff", "check", "--preview", "--select", "PLW1514", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    # The installed copy must not hide the checkout's modules from the import graph.
    session.run("lint-imports", env={"PYTHONPATH": str(Path.cwd())})


@nox.session
def cover(session: nox.Session) -> None:
    """How much of the composing rooms the cheap tests run; less than it was is an error. Lines missed are listed."""
    install(session, "build", "demo", "test")
    session.install("--quiet", "pytest-cov>=6")
    rooms = [f"--cov=kbuild.{room}" for room in COMPOSING]
    options = ["--cov-report=term-missing:skip-covered", f"--cov-fail-under={COVERED}"]
    trying = ("workflow", "verify", "cli", "audit", "deploy", "measuring", "scoring", "trigger")
    folders = [*(f"tests/{room}" for room in trying), "tests/test_docs.py"]
    session.run("pytest", *SIDE_BY_SIDE, *rooms, *options, *(session.posargs or folders))


@nox.session
def mutants(session: nox.Session) -> None:
    """Small faults put into composing modules one by one, and those listed that no test sees (cosmic-ray); an hour.

    ``-- kbuild/image/deliver/naming.py`` takes some of them. The checkout stays as it is: a copy is changed.
    """
    install(session, "build", "demo", "test")
    session.install("--quiet", "cosmic-ray>=8.3")
    copy = Path(session.create_tmp(), "copy").absolute()
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("kbuild", "tests", "dockerfiles", "integration"):
        shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("pyproject.toml", copy)
    # Before what is installed; no bytecode of the mutant before, which may be as long and as old.
    env = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "DO_NOT_TRACK": "1"}
    for module in session.posargs or MUTATED:
        options = f'timeout = 120.0\nmodule-path = ["{module}"]\nexcluded-modules = []\n'
        command = f"python -m pytest -x -q -n 0 -p no:cacheprovider {' '.join(MUTATED[module])}"
        config, found = copy / "mutants.toml", copy / f"{Path(module).stem}.sqlite"
        config.write_text(
            f'[cosmic-ray]\n{options}test-command = "{command}"\n[cosmic-ray.distributor]\nname = "local"\n',
            encoding="utf-8",
        )
        with session.chdir(copy):
            for step in ("baseline", "init", "exec"):
                more = [] if step == "baseline" else [str(found)]
                session.run("cosmic-ray", step, str(config), *more, env=env)
            session.run("cr-report", "--surviving-only", "--show-diff", str(found))


@nox.session
def integration(session: nox.Session) -> None:
    """The real things: conda-lock, Docker, registry, MLflow server. Needs Debian and root for the whole of it.

    ``-- -m heavy`` runs alone what takes gigabytes, ``-- -m "not heavy"`` leaves it out and names it.
    """
    light = "not heavy" in session.posargs
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free < NEEDED_DISK:
        session.error(
            f"{tempfile.gettempdir()} has {free:.0f} GB free, the tests need {NEEDED_DISK}: make room, or set TMPDIR"
        )
    install(session, "build", "demo", "test", "integration", *(() if light else ("spark",)))
    if light:
        session.log("left out, marked heavy:")
        session.run("pytest", "integration", "--collect-only", "--quiet", "-m", "heavy")
    # A file a worker: its tests share what they build, and two cores are what CI has.
    sharing = ("-n", "2", "--dist", "loadfile")
    # What a test that passed has written goes at once: all of it together is 30 GB.
    kept = ("-o", "tmp_path_retention_policy=failed")
    session.run("pytest", "integration", *sharing, *kept, "--durations=20", *session.posargs)


@nox.session
def readme(session: nox.Session) -> None:
    """Write the pages of commands and exit codes anew."""
    install(session, "build")
    session.run("python", "tests/readme_reference.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks side by side with the peer; the table is printed and written as JSON."""
    install(session, "build", "demo", "test", *(["spark"] if session.posargs[:1] == ["batch"] else []))
    session.run("python", "integration/bench.py", *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """Ten minutes (``-- --seconds N``) of twice what the server sustains, then SIGTERM; the result as JSON."""
    install(session, "demo", "test")
    session.run("python", "integration/load.py", *session.posargs)


def install_resolved(session: nox.Session, *how: str) -> None:
    """Install kbuild with packages that uv chooses, into an environment that holds nothing of an earlier choice."""
    set_environment(session)
    session.install("--quiet", UV)
    # All extras are chosen together, so that they are known to go together; only what the tests need is installed.
    every = session.create_tmp() + "/every.txt"
    session.env.pop("TMPDIR", None)  # set by create_tmp: what tests write there would be part of the environment
    wanted = ["pyproject.toml", "--all-extras", "--no-header", "--quiet", "--output-file", every, *how]
    session.run("uv", "pip", "compile", *wanted, silent=True)
    session.run(
        "uv", "pip", "install", "--quiet", "--reinstall-package", "kbuild", "--constraint", every,
        *how, ".[build,demo,test]", env={"VIRTUAL_ENV": session.virtualenv.location},
    )  # fmt: skip
    session.run("uv", "pip", "list", env={"VIRTUAL_ENV": session.virtualenv.location})


@nox.session
def minimum(session: nox.Session) -> None:
    """The cheap tests on the lowest declared version of every direct dependency."""
    install_resolved(session, "--resolution", "lowest-direct")
    session.run("pytest", *SIDE_BY_SIDE, *(session.posargs or ["tests"]))


@nox.session
def next(session: nox.Session) -> None:
    """The cheap tests on the newest of everything, pre-releases included. Not in CI: others' news is no fault here."""
    install_resolved(session, "--prerelease", "allow", "--upgrade")
    session.run("pytest", *SIDE_BY_SIDE, *(session.posargs or ["tests"]))
