"""The pages that ship: their links lead somewhere, the walks go where the code goes, the README is short."""

import ast
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import click
import jinja2
import pandas
import pytest
import yaml
from click.testing import CliRunner
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

import kbuild.scoring.errors
from kbuild import errors
from kbuild.cli.help import command, write_html
from kbuild.cli.kedro_plugin import kbuild_group
from kbuild.docs import GROUPS, headings, more_about, read_pages, section, slug
from kbuild.errors import KbuildError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from readme_reference import llms  # noqa: E402

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
    lines = [line.split() for line in listed.splitlines() if line.startswith("  ")]
    assert {words[0] for words in lines} == {path.stem for path in DOCS.glob("*.md")}
    assert lines[0][0] == "tutorial" and "Begin:" in listed
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
        assert "<h1 id=" in text, name
        assert all((tmp_path / link).exists() for link in re.findall(r'href="(\w[\w-]*\.html)"', text)), name
    assert "<table>" in pages["serving"]


PAGES = sorted(DOCS.glob("*.md"))
SOURCES = {path: path.read_text("utf-8") for path in [*(ROOT / "kbuild").rglob("*.py"), *PAGES, ROOT / "README.md"]}
HELP = re.compile(r"kbuild help ([a-z-]+)#([\w-]+)")
BLOCK = re.compile(r"(?:^`(?P<path>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_list_has_every_page_once() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == [path.stem for path in PAGES]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    for name, heading in re.findall(r"\]\(([\w./-]*)#([^)\s]+)\)", SOURCES[page]):
        target = (page.parent / name).resolve() if name else page
        assert heading in headings(target.read_text("utf-8")), f"{name}#{heading}"


@pytest.mark.parametrize(("page", "paged"), [("tutorial", True), ("exit-codes#47", False)])
def test_on_a_terminal_a_page_is_drawn_and_paged_where_it_is_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str, paged: bool
) -> None:
    """By click's pager: less shows the codes of colours themselves unless it is told not to, and click tells it."""
    given: list[str] = []
    monkeypatch.setattr("click.echo_via_pager", given.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    command.main([page], standalone_mode=False)
    printed = capsys.readouterr().out
    assert (bool(given), bool(printed)) == (paged, not paged)
    assert ("A project of your own" in given[0]) if paged else ("No image of that name" in " ".join(printed.split()))


def test_the_beginning_of_a_heading_is_enough_where_one_begins_so() -> None:
    done = CliRunner().invoke(command, ["troubleshooting#nothing-was-logged-yet"])
    assert done.exit_code == 0 and done.output.startswith("## nothing was logged yet"), done.output
    assert "no heading 'the'" in CliRunner().invoke(command, ["troubleshooting#the"]).stderr


def test_every_heading_that_a_message_or_page_names_can_be_shown() -> None:
    named = {found for text in SOURCES.values() for found in HELP.findall(text)}
    assert ("howto", "choose-an-input") in named
    for name, heading in sorted(named):
        done = CliRunner().invoke(command, [f"{name}#{heading}"])
        assert done.exit_code == 0, done.stderr
        first, *rest = done.stdout.splitlines()
        assert first.startswith("#") and slug(first.lstrip("# ")) == heading and any(rest)


def test_a_part_ends_where_the_next_heading_of_its_level_begins() -> None:
    page = "# A\n\n## b `c`\n\n1\n\n### d\n\n```sh\n# no heading\n```\n\n## e\n\n2\n"
    assert list(headings(page)) == ["a", "b-c", "d", "e"]
    assert section(page, "b-c") == "## b `c`\n\n1\n\n### d\n\n```sh\n# no heading\n```\n"
    assert section(page, "e") == "## e\n\n2\n" and section(page, "a") == page


@pytest.mark.parametrize(
    ("typed", "said"), [("howto#choose-a-input", "did you mean choose-an-input?"), ("hwoto#x", "did you mean howto?")]
)
def test_a_heading_that_is_misspelt_is_answered(typed: str, said: str) -> None:
    assert said in CliRunner().invoke(command, [typed]).stderr


def test_every_error_has_a_remedy() -> None:
    named = [*vars(errors).values(), *vars(kbuild.scoring.errors).values()]
    classes = [each for each in named if isinstance(each, type) and issubclass(each, KbuildError)]
    codes = {each.exit_code for each in classes} - {1}
    page = SOURCES[DOCS / "exit-codes.md"]
    assert {int(name) for name in headings(page) if name.isdigit()} == codes
    for code in codes:
        assert more_about("no such words anywhere", code) == f"exit-codes#{code}"
        assert len(section(page, str(code))) > 40
    assert more_about("no such words anywhere", 1) is None


def _said(text: str) -> list[str]:
    """The texts in a module, … for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else "…" for each in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


HEADINGS = re.findall(r"^## (.+)$", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("heading", HEADINGS)
def test_troubleshooting_is_of_messages_that_there_are(heading: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in heading.split("…")))
    word = max(heading.replace("…", " ").split(), key=len)
    modules = [text for path, text in SOURCES.items() if path.suffix == ".py" and word in text]
    message = next((said for text in modules for said in _said(text) if pattern.search(said)), None)
    assert message is not None
    more = more_about(message, 1)
    assert more is not None and f"troubleshooting#{slug(heading)}".startswith(more)
    # What is typed from an 80-column terminal is on one line of it, and shows that part.
    assert len(f"  more: kbuild help {more}") <= 80
    assert CliRunner().invoke(command, [more]).stdout.startswith(f"## {heading}\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_block_can_be_read_by_what_it_is_for(page: Path) -> None:
    for found in BLOCK.finditer(SOURCES[page]):
        if found["kind"] == "python":
            compile(found["text"], page.name, "exec")
        elif found["kind"] == "yaml":
            assert yaml.safe_load(found["text"])
        elif found["kind"] == "jinja":
            jinja2.Environment(autoescape=True).parse(found["text"])
        elif found["kind"] == "console":
            # The line with a $ is typed; of kbuild's own, test_readme reads each.
            for line in re.findall(r"^\$ kedro kbuild (.+)$", found["text"], re.MULTILINE):
                name, *rest = shlex.split(line)
                inner = kbuild_group.get_command(click.Context(kbuild_group), name)
                assert inner is not None
                inner.make_context(name, rest)
        else:
            assert found["kind"] in ("text", "jinja")


def test_the_tutorials_project_predicts_what_the_tutorial_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    page = SOURCES[DOCS / "tutorial.md"]
    for found in BLOCK.finditer(page):
        if found["path"] is not None:
            Path(found["path"]).parent.mkdir(parents=True, exist_ok=True)
            Path(found["path"]).write_text(found["text"], encoding="utf-8")
    [data] = [found["text"] for found in BLOCK.finditer(page) if found["text"].startswith("import csv")]
    exec(compile(data, "tutorial.md", "exec"), {})  # noqa: S102 - our own
    registry = importlib.import_module("flights.pipeline_registry").register_pipelines()
    catalog = DataCatalog.from_config(yaml.safe_load(Path("conf/base/catalog.yml").read_text(encoding="utf-8")))
    catalog["params:features"] = yaml.safe_load(Path("conf/base/parameters.yml").read_text(encoding="utf-8"))[
        "features"
    ]
    made = SequentialRunner().run(registry["__default__"], catalog)
    [request] = re.findall(r"-d '(.+?)' http", page)
    [answer] = re.findall(r"^\{\"predictions.*", page, re.MULTILINE)
    catalog["journeys"] = MemoryDataset(pandas.DataFrame(json.loads(request)["dataframe_records"]))
    catalog["regressor"] = MemoryDataset(made["regressor"].load())
    prices = SequentialRunner().run(registry["inference"], catalog)["prices"].load()
    assert prices.to_dict("records") == json.loads(answer)["predictions"]


def test_what_language_models_read_first_is_what_there_is() -> None:
    assert (DOCS / "llms.txt").read_text("utf-8") == llms()
