"""Writes the parts of the pages that the code decides: ``python tests/readme_reference.py``; with names of
parts it prints their pages as JSON."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import kbuild
import kbuild.errors
import kbuild.scoring.errors
from kbuild.cli.app import cli
from kbuild.cli.kedro_plugin import commands as kedro_commands
from kbuild.cli.kedro_plugin import kbuild_group
from kbuild.docs import GROUPS, read_pages, title_of
from kbuild.errors import KbuildError


def commands() -> dict[str, click.Command]:
    """Every command by its name."""
    context = click.Context(cli, info_name="kbuild")
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def reference() -> str:
    """``--help`` of every command, 100 columns wide."""
    parts = []
    # The group's own settings count for its commands, as when they are called.
    group = click.Context(cli, info_name="kbuild", **cli.context_settings)
    for name, command in commands().items():
        parts += _helps(group, name, command, "##")
    # Kedro's own group has some besides.
    kedro = click.Context(kbuild_group, click.Context(kedro_commands, info_name="kedro"), info_name="kbuild")
    for name in sorted({*kbuild_group.list_commands(kedro)} - {*commands()}):
        parts += _helps(kedro, name, kbuild_group.get_command(kedro, name), "##")
    return "\n".join(parts)


def _helps(group: click.Context, name: str, command: click.Command | None, mark: str) -> Iterator[str]:
    """Of a command and of those below it."""
    assert command is not None
    context = click.Context(command, group, info_name=name, max_content_width=100, terminal_width=100)
    yield f"{mark} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            yield from _helps(context, each, command.get_command(context, each), f"{mark}#")


def exit_codes() -> str:
    """A table of the error classes: code, what it means."""
    modules = (kbuild.errors, kbuild.scoring.errors)
    found = {c for module in modules for _, c in inspect.getmembers(module, inspect.isclass)}
    classes = [c for c in sorted(found, key=lambda c: c.__name__) if issubclass(c, KbuildError)]
    meanings = {0: "success", 1: "an error nobody foresaw; a defect", 2: "a command line that was not understood"}
    meanings |= {c.exit_code: " ".join((c.__doc__ or "").split()) for c in classes if c.exit_code > 2}
    meanings |= {129: "stopped because its terminal went away", 130: "stopped by Ctrl-C"}
    meanings |= {141: "the reader of its output went away", 143: "stopped by SIGTERM"}
    rows = [f"| {code} | {meanings[code].removesuffix('.')} |" for code in sorted(meanings)]
    return "\n".join(["| code | meaning |", "|---|---|", *rows, ""])


def python() -> str:
    """What ``import kbuild`` offers for building: signatures as they are written, docstrings, fields of the options."""
    parts = []
    for module in _MODULES:
        tree = ast.parse(inspect.getsource(import_module(f"kbuild.api.{module}")))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in {*kbuild.__all__, *_BESIDES}:
                parts.append(_entry("##", node.name, node))
                methods = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name[0] != "_"]
                if node.name == "Client":
                    parts += [_entry("###", f"Client.{each.name}", each) for each in methods]
    return "\n".join(parts)


def json_forms() -> str:
    """Tables of what ``--json`` prints, of the schema that ships."""
    defs = json.loads((DOCS / "output.schema.json").read_text(encoding="utf-8"))["$defs"]
    parts = []
    for name, form in defs.items():
        title = f"kbuild {name}" if name.split()[0] in commands() else name
        parts.append(f"## {title}\n\n{form.get('description', '')}".rstrip() + "\n")
        for each in form.get("anyOf", [form]):
            heading = f"{each['title'].capitalize()}:\n\n" if "title" in each else ""
            rows = [f"| `{key}` | {kind} | {told} |" for key, kind, told in _rows(each, "")]
            table = "\n".join(["| key | type | |", "|---|---|---|", *rows]) if rows else _kind(each)
            parts.append(f"{heading}{table}\n")
    return "\n".join(parts)


def _rows(form: dict[str, Any], before: str) -> Iterator[tuple[str, str, str]]:
    if form.get("type") == "array":
        yield from _rows(form["items"], f"{before}[].")
    for name, each in form.get("properties", {}).items():
        key = f"{before}{name}"
        absent = "" if name in form.get("required", ()) else " May be absent."
        yield key, _kind(each), (each.get("description", "") + absent).strip()
        inner = each.get("additionalProperties")
        yield from _rows(each.get("items", each), f"{key}[]." if "items" in each else f"{key}.")
        yield from _rows(inner, f"{key}.*.") if isinstance(inner, dict) else ()


def _kind(form: dict[str, Any]) -> str:
    if "$ref" in form:
        name = form["$ref"].rpartition("/")[2]
        return f"as [{name}](#{name})"
    if "anyOf" in form:
        return " or ".join(map(_kind, form["anyOf"]))
    if "enum" in form or "const" in form:
        values = form.get("enum", [form.get("const")])
        return ", ".join(f"`{json.dumps(each).strip(chr(34))}`" for each in values)
    kinds = form.get("type", "any")
    told = " or ".join(kinds) if isinstance(kinds, list) else kinds
    return f"{told} of {_kind(form['items'])}" if "items" in form else told


def llms() -> str:
    """``llms.txt`` as llmstxt.org has it: what this is, and the pages with the first sentence of each."""
    told = "The model you trained, served as it was trained: locked, reproducible images of Kedro models."
    parts = ["# kbuild", "", f"> {told}"]
    pages = read_pages()
    for group, names in GROUPS.items():
        parts += ["", f"## {group}", ""]
        for name in names:
            prose = [each for each in pages[name].split("\n\n")[1:] if each[0].isalpha() or re.match("`[^`]", each)]
            first = re.split(r"(?<=[.:]) ", " ".join(prose[0].split()))[0] if prose else ""
            told = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", first).rstrip(":")
            parts.append(f"- [{title_of(pages[name])}]({name}.md)" + (f": {told}" if told else ""))
    return "\n".join(parts) + "\n"


# Of the API, in the order of the page.
_MODULES = (
    *("building", "packing", "spark", "auditing", "verifying", "rebuilding", "running", "measuring", "comparing"),
    *("inspecting", "session", "request"),
)
# What the functions give and take besides.
_BESIDES = ("BuildOptions", "Client", "Measure", "MeasuredImage", "VerifiedImage")


def _entry(mark: str, title: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    text = (ast.get_docstring(node) or "").replace("``", "`")
    return f"{mark} {title}\n\n```text\n{_stated(node)}\n```\n\n{text}\n"


def _stated(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.FunctionDef):
        return f"def {node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns or ast.Constant(None))}"
    bases = ", ".join(map(ast.unparse, node.bases))
    fields = [f"    {ast.unparse(each)}" for each in node.body if isinstance(each, ast.AnnAssign)]
    return "\n".join([f"class {node.name}({bases}):" if bases else f"class {node.name}:", *fields])


BLOCKS: dict[str, Callable[[], str]] = {
    "reference": reference,
    "exit codes": exit_codes,
    "python": python,
    "json": json_forms,
}
DOCS = Path(__file__).parent.parent / "kbuild" / "docs"
NAMES = {"reference": "commands", "exit codes": "exit-codes", "python": "python", "json": "json"}
PAGES = {block: DOCS / f"{name}.md" for block, name in NAMES.items()}


def render(page: str, name: str) -> str:
    """The page with its block written anew."""
    pattern = re.compile(rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    assert pattern.search(page), f"the page has no marks for {name}"
    return pattern.sub(lambda match: f"{match[1]}\n{BLOCKS[name]()}\n{match[2]}", page)


if __name__ == "__main__" and sys.argv[1:]:
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    pages = {name: render(PAGES[name].read_text(encoding="utf-8"), name) for name in sys.argv[1:]}
    print(json.dumps(pages))
elif __name__ == "__main__":
    for block, path in PAGES.items():
        path.write_text(render(path.read_text(encoding="utf-8"), block), encoding="utf-8")
    (DOCS / "llms.txt").write_text(llms(), encoding="utf-8")
