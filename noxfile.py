"""The commands, ``nox -s demo | tests | lint | integration | bench | load | minimum``; each makes its own venv."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]


def install(session: nox.Session, *extras: str) -> None:
    """Install kbuild as users get it: built into a wheel, not linked to the checkout."""
    # nox itself may have come by PYTHONPATH (see the README); its packages must not shadow the session's.
    session.env["PYTHONPATH"] = ""
    session.env["DO_NOT_TRACK"] = "1"
    session.install("--quiet", f".[{','.join(extras)}]", silent=False)


@nox.session
def demo(session: nox.Session) -> None:
    """Train, lock, build, run and score the demo project; options go to ``kbuild demo``."""
    install(session, "build", "demo")
    session.run("kbuild", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The cheap tests: no network, no daemon."""
    install(session, "build", "demo", "test")
    session.run("pytest", *(session.posargs or ["tests"]))


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
def integration(session: nox.Session) -> None:
    """The real things: conda-lock, Docker, registry, MLflow server. Needs Debian and root for the whole of it.

    ``-- -m heavy`` runs the libraries that take gigabytes alone, ``-- -m "not heavy"`` leaves them out and names them.
    """
    install(session, "build", "demo", "test", "integration")
    if "not heavy" in session.posargs:
        session.log("left out, marked heavy:")
        session.run("pytest", "integration/test_libraries.py", "--collect-only", "--quiet", "-m", "heavy")
    # A file a worker: its tests share what they build, and two cores are what CI has.
    session.run("pytest", "integration", "-n", "2", "--dist", "loadfile", "--durations=20", *session.posargs)


@nox.session
def readme(session: nox.Session) -> None:
    """Write the pages of commands and exit codes anew."""
    install(session, "build")
    session.run("python", "tests/readme_reference.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks side by side with the peer; the table is printed and written as JSON."""
    install(session, "build", "demo", "test")
    session.run("python", "integration/bench.py", *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """Ten minutes (``-- --seconds N``) of twice what the server sustains, then SIGTERM; the result as JSON."""
    install(session, "demo", "test")
    session.run("python", "integration/load.py", *session.posargs)


@nox.session
def minimum(session: nox.Session) -> None:
    """The cheap tests on the oldest declared Kedro and MLflow."""
    install(session, "build", "demo", "test")
    # MLflow 3.1 asks for SQLAlchemy below 3, and does not load with 2.1, which came later.
    session.install("--quiet", "kedro==1.0.*", "mlflow==3.1.*", "sqlalchemy<2.1")
    session.run("pytest", *(session.posargs or ["tests"]))
