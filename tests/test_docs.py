"""The pages that ship: their links lead somewhere, the walks go where the code goes, the README is short."""

import ast
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kbuild.cli.help import command, read_pages, write_html

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "kbuild" / "docs"
WALKS = re.findall(r"^\d+\. `(\S+\.py)`: .*?`(\w+)`", (DOCS / "architecture.md").read_text("utf-8"), re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)\)")


def called_names(path: Path) -> set[str]:
    """Every name that a module calls, passes on or defines a method of that name for."""
    tree = ast.parse(path.read_text("utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), WALKS)
def test_each_step_of_a_walk_is_a_call_in_the_file_it_names(file: str, name: str) -> None:
    assert name in called_names(ROOT / file)


def test_there_are_three_walks() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    assert len(re.findall(r"^## Walk \d", text, re.MULTILINE)) == 3
    assert len(WALKS) == len(re.findall(r"^\d+\. ", text, re.MULTILINE)) > 20


def test_the_map_names_every_package() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    packages = {path.parent.name for path in (ROOT / "kbuild").glob("*/__init__.py")} - {"docs", "io"}
    assert [name for name in sorted(packages) if f"`{name}`" not in text and f"`{name}." not in text] == []


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))], ids=str
)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 12_000


def test_help_lists_and_shows_the_pages_that_ship() -> None:
    listed = CliRunner().invoke(command, []).output
    assert {line.split()[0] for line in listed.splitlines()} == {path.stem for path in DOCS.glob("*.md")}
    shown = CliRunner().invoke(command, ["serving"]).output
    assert shown == (DOCS / "serving.md").read_text("utf-8")
    wrong = CliRunner().invoke(command, ["serveing"], standalone_mode=False).exception
    assert isinstance(wrong, click.UsageError)
    assert "serving" in wrong.message


def test_help_writes_pages_that_link_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(tmp_path))
    done = CliRunner().invoke(command, ["audit", "--html"])
    assert done.output.strip() == str(tmp_path / "audit.html")
    assert opened == [(tmp_path / "audit.html").as_uri()]
    pages = {path.stem: path.read_text("utf-8") for path in write_html(read_pages()).glob("*.html")}
    assert set(pages) == {path.stem for path in DOCS.glob("*.md")}
    for name, text in pages.items():
        assert "<h1>" in text, name
        assert all((tmp_path / link).exists() for link in re.findall(r'href="(\w[\w-]*\.html)"', text)), name
    assert "<table>" in pages["serving"]
