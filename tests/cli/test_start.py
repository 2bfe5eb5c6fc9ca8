"""What a command imports before it works: every module costs each call, and some cost more than the work itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = frozenset(
    {
        "mlflow",
        "kedro",
        "docker",
        "pandas",
        "numpy",
        "sqlalchemy",
        "requests",
        "rich",
        "rattler",
        "elftools",
    }
)


def imported(code: str) -> set[str]:
    """The top-level modules in memory after ``code``, run by a fresh interpreter."""
    show = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["image", "lock", "render"])
def test_what_builds_imports_nothing_that_a_known_model_does_not_need(command: str) -> None:
    assert not imported(f"import sys, kbuild.cli.{command}, kbuild.model.sqlite") & HEAVY


def test_help_imports_no_command() -> None:
    code = (
        "import sys, click\nfrom kbuild.cli.app import cli\ncli.main(['--help'], standalone_mode=False)\n"
        "assert not {'kbuild.cli.image', 'kbuild.workflow', 'kbuild.model'} & set(sys.modules)"
    )
    assert not imported(code) & {*HEAVY, "yaml", "jinja2", "packaging"}


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        ("error", True),
        ("e", True),
        ("error::DeprecationWarning", True),
        ("ignore,error:o", True),
        ("ignore,error:x", False),
        ("error,ignore::DeprecationWarning", False),
        ("ignore::DeprecationWarning,error", True),
        ("ignore,error::UserWarning", False),
        ("error,ignore:old", False),
    ],
)
def test_a_librarys_warning_does_not_end_a_command(stated: str, shown: bool) -> None:
    """Nor one of what is started: the user's own code is what ``PYTHONWARNINGS`` is meant for. What Python itself would
    not raise as an error, by the order of these, is as it was stated."""
    code = (
        "import os, sys, subprocess, warnings\nfrom kbuild.cli import app\n"
        "warn = 'import warnings; warnings.warn(\"old\", DeprecationWarning)'\n"
        "app.cli.main = lambda **_: exec(warn) or subprocess.run([sys.executable, '-c', warn], check=True)\n"
        "app.run()"
    )
    environ = {**os.environ, "PYTHONWARNINGS": stated}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 0 and done.stderr.count("DeprecationWarning: old") == 2 * shown, done.stderr
    plain = subprocess.run(
        [sys.executable, "-c", "import warnings; warnings.warn('old', DeprecationWarning)"], check=False,
        capture_output=True, env=environ,
    )  # fmt: skip
    assert (plain.returncode != 0) is shown, "by Python itself"
