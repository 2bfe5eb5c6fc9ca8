"""The commands that the README and the pages show exist, and the reference is what the commands say of themselves."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from readme_reference import BLOCKS, DOCS, PAGES, commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALLS = re.findall(r"^python3 -m pip install .*", README, re.MULTILINE)


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """The pages as they would be written."""
    # Alone: click keeps of a command how it was called first, which here other tests decide.
    program = [sys.executable, ROOT / "tests" / "readme_reference.py", *BLOCKS]
    done = subprocess.run(program, capture_output=True, text=True, encoding="utf-8", check=True)
    pages: dict[str, str] = json.loads(done.stdout)
    return pages


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_the_reference_is_what_the_commands_say(name: str, written: dict[str, str]) -> None:
    assert written[name] == PAGES[name].read_text(encoding="utf-8"), "nox -s readme writes it anew"


def shown() -> list[str]:
    """Every kbuild command line in a console block."""
    texts = [README, *(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))]
    blocks = [block for text in texts for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith("kbuild ")})


def test_commands_are_shown() -> None:
    assert len(shown()) >= 5


@pytest.mark.parametrize("line", shown())
def test_every_command_shown_is_parsed(line: str) -> None:
    name, *argv = shlex.split(line)[1:]
    command = commands()[name]
    context = command.make_context(name, list(argv), resilient_parsing=False)
    assert context.params


@pytest.mark.parametrize("session", ["demo", "tests"])
def test_the_quick_start_is_one_line_that_makes_its_own_environment(session: str) -> None:
    line = f"python3 -m pip install -qq --target .tools nox && PYTHONPATH=.tools python3 -m nox -s {session}"
    assert f"```console\n{line}\n```" in README
    assert f"def {session}(session: nox.Session)" in (ROOT / "noxfile.py").read_text()


def test_the_install_line_installs_this_checkout() -> None:
    """What it names is what lies beside the README; that pip takes it is shown in integration."""
    [line] = [line for line in INSTALLS if "nox" not in line]
    *words, requirement = shlex.split(line)
    path, _, extra = requirement.rstrip("]").partition("[")
    project = tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]
    assert (words, project["name"]) == (["python3", "-m", "pip", "install"], "kbuild")
    assert extra in project["optional-dependencies"]
    assert "pip install 'kbuild" not in README


def test_ci_runs_the_readmes_test_command() -> None:
    line = "python3 -m pip install -qq --target .tools nox && PYTHONPATH=.tools python3 -m nox -s tests"
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()


def test_help_of_the_group_lists_every_command() -> None:
    from kbuild.cli.app import cli

    help_text = CliRunner().invoke(cli, ["--help"]).output
    assert [name for name in commands() if name not in help_text] == []
