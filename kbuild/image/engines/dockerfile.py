"""Reading a Dockerfile: instructions, words, quotes and variables, as BuildKit's own parser reads them.

Dockerfile reference (docs.docker.com/reference/dockerfile); BuildKit's ``frontend/dockerfile/parser`` and ``shell``.
The library dockerfile-parse splits the file into instructions (comments, continuation lines). Words and variables are
read here: the library expands them by other rules (it knows no ``${NAME:-word}`` and drops backslashes).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from dockerfile_parse import DockerfileParser

from kbuild.errors import BuildFailed, UnsupportedInstruction

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FLAG = re.compile(r"--([a-z-]+)=(\S*)\s*|--([a-z-]+)\s+")
_ESCAPE_DIRECTIVE = re.compile(r"\s*#\s*escape\s*=\s*`", re.I)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """One instruction: its name in capitals, what follows it on the joined lines, and its first line's number."""

    name: str
    value: str
    line: int

    def fail(self, reason: str) -> NoReturn:
        """Raise BuildFailed naming the line."""
        raise BuildFailed(f"Dockerfile line {self.line}: {self.name}: {reason}")

    def unsupported(self, reason: str = "the native engine does not execute it") -> NoReturn:
        """Raise UnsupportedInstruction naming the line."""
        raise UnsupportedInstruction(f"Dockerfile line {self.line}: {self.name}: {reason}")


@lru_cache(maxsize=64)  # whether it is the plan's, what it copies, and what it does: asked of one text
def parse_dockerfile(text: str) -> tuple[Instruction, ...]:
    """The instructions in their order, comments dropped; raises BuildFailed for a line that is none."""
    for line in text.splitlines():
        if _ESCAPE_DIRECTIVE.match(line):
            raise UnsupportedInstruction("the native engine reads only Dockerfiles whose escape character is \\")
        if line.strip() and not line.lstrip().startswith("#"):
            break
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()), env_replace=False)
    structure = [item for item in parser.structure if item["instruction"] != "COMMENT"]
    _refuse_skipped_lines(text, structure)
    instructions = tuple(
        Instruction(name=item["instruction"], value=item["value"].strip(), line=item["startline"] + 1)
        for item in structure
    )
    for instruction in instructions:
        if not instruction.value:
            instruction.fail("needs an argument")
    return instructions


def take_flags(instruction: Instruction) -> tuple[dict[str, str], str]:
    """The ``--name=value`` flags before the arguments, and the rest."""
    flags: dict[str, str] = {}
    rest = instruction.value
    while match := _FLAG.match(rest):
        flags[match[1] or match[3]] = match[2] or ""
        rest = rest[match.end() :]
    return flags, rest


def read_exec_form(text: str) -> list[str] | None:
    """The words of a JSON array, or None where the text is not one (it is then shell form or plain words)."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except ValueError:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    return words


def split_words(text: str) -> list[str]:
    """Split at white space outside quotes; quotes and backslashes stay in the words."""
    words: list[str] = []
    word = ""
    quote = ""
    escaped = False
    for char in text:
        if char.isspace() and not quote and not escaped:
            if word:
                words.append(word)
            word = ""
            continue
        word += char
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
    return [*words, word] if word else words


def key_values(instruction: Instruction, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """The pairs of ENV and LABEL, ``key=value …`` or the old ``key value``, quotes and variables resolved."""
    words = split_words(instruction.value)
    if not words:
        instruction.fail("needs at least one key=value")
    if "=" not in words[0]:
        key, _, value = instruction.value.partition(" ")
        if not value.strip():
            instruction.fail(f"{key!r} has no value")
        return [(expand(key, variables, instruction), expand(value.strip(), variables, instruction))]
    pairs: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            instruction.fail(f"{word!r} is not of the form key=value")
        pairs.append((expand(key, variables, instruction), expand(value, variables, instruction)))
    return pairs


def expand(text: str, variables: Mapping[str, str], instruction: Instruction) -> str:
    """Resolve quotes, backslashes and ``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``${NAME:+word}``."""
    return "".join(_expanded(_Scanner(text), variables, instruction, stop=""))


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        self.at += len(char)
        return char

    def take_name(self) -> str:
        match = _NAME.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match[0] if match else ""


def _expanded(scan: _Scanner, variables: Mapping[str, str], instruction: Instruction, *, stop: str) -> Iterator[str]:
    while (char := scan.take()) and char != stop:
        if char == "'":
            yield _single_quoted(scan, instruction)
        elif char == '"':
            yield from _double_quoted(scan, variables, instruction)
        elif char == "$":
            yield _variable(scan, variables, instruction)
        elif char == "\\":
            yield scan.take()
        else:
            yield char
    if stop and char != stop:
        instruction.fail(f"{scan.text!r} lacks a closing {stop}")


def _single_quoted(scan: _Scanner, instruction: Instruction) -> str:
    end = scan.text.find("'", scan.at)
    if end < 0:
        instruction.fail(f"{scan.text!r} lacks a closing '")
    text = scan.text[scan.at : end]
    scan.at = end + 1
    return text


def _double_quoted(scan: _Scanner, variables: Mapping[str, str], instruction: Instruction) -> Iterator[str]:
    while (char := scan.take()) != '"':
        if not char:
            instruction.fail(f'{scan.text!r} lacks a closing "')
        if char == "$":
            yield _variable(scan, variables, instruction)
        elif char == "\\" and scan.peek() in ('"', "$", "\\"):
            yield scan.take()
        else:
            yield char


def _variable(scan: _Scanner, variables: Mapping[str, str], instruction: Instruction) -> str:
    if scan.peek() != "{":
        name = scan.take_name()
        if not name and (scan.peek().isdigit() or scan.peek() in ("@", "*", "#", "?", "-", "!")):
            instruction.unsupported(f"${scan.peek()} has no meaning here")
        return variables.get(name, "") if name else "$"
    scan.take()
    name = scan.take_name()
    operator = scan.take()
    if name and operator == "}":
        return variables.get(name, "")
    if not name or operator != ":" or scan.peek() not in ("-", "+"):
        instruction.unsupported(f"the variable in {scan.text!r} has a form that only BuildKit reads")
    kind = scan.take()
    word = "".join(_expanded(scan, variables, instruction, stop="}"))
    value = variables.get(name, "")
    if kind == "-":
        return value or word
    return word if value else ""


def _refuse_skipped_lines(text: str, structure: list[dict[str, object]]) -> None:
    """dockerfile-parse leaves out a line that is no instruction; here it is an error."""
    covered: set[int] = set()
    for item in structure:
        covered.update(range(int(str(item["startline"])), int(str(item["endline"])) + 1))
    for number, line in enumerate(io.StringIO(text, newline="\n")):
        if line.strip() and not line.lstrip().startswith("#") and number not in covered:
            raise BuildFailed(f"Dockerfile line {number + 1}: not an instruction with arguments: {line.strip()}")
