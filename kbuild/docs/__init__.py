"""What people read: the pages of ``kbuild help``, their headings, and where an error leads."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.resources import files

_LONGEST = 44  # characters of a heading, of 80 with "  more: kbuild help troubleshooting#" before them
_HEADING = re.compile(r"(?P<mark>#{1,6}) (?P<text>.+)")

GROUPS: dict[str, tuple[str, ...]] = {
    "Begin": ("tutorial", "concepts", "project", "inputs", "datasets"),
    "Do": ("howto", "images", "audit", "triggers", "watching", "queue", "batch", "serving", "deploying"),
    "Come from": ("from-kedro-mlflow", "from-mlflow"),
    "Mend": ("troubleshooting", "exit-codes"),
    "Look up": ("commands", "json", "configuration", "python", "private-names", "changelog"),
    "Know why": ("reproducible", "architecture", "decisions", "benchmarks", "libraries", "tried"),
}
"""The pages by what one wants, in the order in which to read them."""


def read_pages() -> dict[str, str]:
    """The pages as Markdown, by name, in the order of GROUPS."""
    return {name: _read(name) for group in GROUPS.values() for name in group}


def title_of(page: str) -> str:
    """The text of its first heading."""
    return page.split("\n", 1)[0].removeprefix("# ")


def headings(page: str) -> dict[str, tuple[int, int, int]]:
    """Each heading of a page, as links name it (GitHub's way): its level, its line and the line after its part."""
    lines, found, fenced = page.splitlines(), dict[str, tuple[int, int, int]](), False
    for number, line in enumerate(lines):
        fenced ^= line.startswith("```")
        match = None if fenced else _HEADING.fullmatch(line)
        if match is not None:
            level = len(match["mark"])
            for name, (above, begin, end) in found.items():
                if end == len(lines) and above >= level:
                    found[name] = (above, begin, number)
            found[slug(match["text"])] = (level, number, len(lines))
    return found


def slug(heading: str) -> str:
    """What follows the # of a link to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(page: str, heading: str) -> str:
    """The part of a page below one of its headings."""
    _, begin, end = headings(page)[heading]
    return "\n".join(page.splitlines()[begin:end]).rstrip() + "\n"


def more_about(message: str, exit_code: int) -> str | None:
    """The page and heading that tell of an error, as ``kbuild help`` takes them; None where none does.

    A heading of troubleshooting is what such a message holds, … in it anything. Of a long one it is the beginning.
    """
    page = _read("troubleshooting")
    for line in page.splitlines():
        match = _HEADING.fullmatch(line)
        if match is not None and len(match["mark"]) == 2:
            parts = [re.escape(part) for part in match["text"].split("…")]
            if re.search(".*".join(parts), message, re.DOTALL):
                return f"troubleshooting#{_beginning(slug(match['text']), headings(page))}"
    name = str(exit_code)
    return f"exit-codes#{name}" if name in headings(_read("exit-codes")) else None


def _beginning(heading: str, known: Collection[str]) -> str:
    """The words of a heading that fit, as far as they begin no other one: more is broken by an 80-column terminal."""
    words = heading.split("-")
    while len("-".join(words)) > _LONGEST:
        words.pop()
    begun = "-".join(words)
    return begun if sum(each.startswith(begun) for each in known) == 1 else heading


def _read(name: str) -> str:
    return files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")
