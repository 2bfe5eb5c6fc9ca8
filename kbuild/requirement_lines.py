"""One line of a requirements file: what it asks for, its hashes, and whether a lock can hold it.

Training asks this before a model is logged, the lock when it is made; both say the same of a line.
Format: pip's docs, "Requirements File Format" and "Hash-checking Mode"; PEP 508 through ``packaging.requirements``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier
from packaging.version import InvalidVersion, Version

OPTION = re.compile(r"(?P<name>--[a-z-]+|-[a-zA-Z])(?:[= ]\s*|(?<=-[a-zA-Z]))?(?P<value>.*)")
SHORT = {"-c": "--constraint", "-r": "--requirement", "-i": "--index-url", "-f": "--find-links", "-e": "--editable"}
FILES = frozenset({"--constraint", "--requirement"})
INDEXES = frozenset({"--index-url", "--extra-index-url", "--no-index"})
# Which releases and files a lock chooses from.
CHOICES = frozenset({"--pre", "--prefer-binary", "--only-binary", "--no-binary"})
# Every package of a lock is compared with its hash anyway.
WITHOUT_EFFECT = frozenset({"--require-hashes"})

_ORDER_MARK = "\ufeff"  # what some editors begin a file with
_COMMENT = re.compile(r"(^|\s)#.*$")
# What pip takes for a path: it has a separator of folders, or an archive's ending (pip's ``_looks_like_path`` and
# ``ARCHIVE_EXTENSIONS``).
_ARCHIVES = r"\.(whl|zip|tar|tgz|tbz|txz|tlz|tar\.(gz|bz2|xz|lz|lzma))"
_NOT_FROM_AN_INDEX = re.compile(rf"(\w+\+)?\w+://|[./~]|[^@;\[]*[/\\]|.*{_ARCHIVES}$", re.IGNORECASE)
_ONE_EQUALS = re.compile(r"[\w.-]+(\[[^\]]*\])?\s*=\s*[\w.]+")  # conda's way
_SWAPPED = re.compile(r"=([<>!~])(?!=)")  # the signs of >= in the other order
_OPTIONS = re.compile(r"\s+(?=--[a-z])")
_HASH = re.compile(r"--hash[= ]\s*(?P<kind>\w+):(?P<digest>[0-9a-fA-F]+)")
_SHA256 = 64

INSTEAD = (
    "publish it to your package index, or put its wheel into a folder that PIP_FIND_LINKS names, and name it with its "
    "version; or let its code travel with the model: log_model_kwargs={'code_paths': ['path/of/the/package']}"
)
"""What to do about a requirement that no index has."""
TWO_EQUALS = "pip names a version by two equal signs"
"""What is wrong with conda's ``numpy=2.1``."""
RESPELL = "requirements are written NAME, NAME==VERSION or NAME>=VERSION,<VERSION (PEP 508)"
"""What to do about a line that is no requirement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequirementLine:
    """``requirement`` None and a ``problem`` where a lock cannot hold it; ``hashes`` are sha256, in small letters.

    ``misspelt`` where the line is no requirement of anything.
    """

    requirement: Requirement | None = None
    hashes: tuple[str, ...] = ()
    problem: str | None = None
    misspelt: bool = False


def logical_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines without comments and empty ones; those that end with a backslash joined with the next."""
    joined = "\n".join(str(line) for line in lines).replace("\\\r\n", " ").replace("\\\n", " ")
    for line in joined.splitlines():
        text = _COMMENT.sub("", line.lstrip(_ORDER_MARK)).strip()
        if text:
            yield text


def read_requirement_line(line: str) -> RequirementLine:
    """Read a logical line that is no option."""
    text, *options = _OPTIONS.split(line)
    if _NOT_FROM_AN_INDEX.match(text):
        return RequirementLine(problem="only packages of an index can be locked, no paths, archives or version control")
    hashes = []
    for option in options:
        match = _HASH.fullmatch(option.strip())
        if match is None:
            return RequirementLine(problem=f"the option {option.split('=')[0].split()[0]} cannot be locked")
        if match["kind"].lower() != "sha256" or len(match["digest"]) != _SHA256:
            return RequirementLine(problem=f"{option.strip()} is not a sha256, which is what a lock is compared by")
        hashes.append(match["digest"].lower())
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        if _ONE_EQUALS.match(text):
            return RequirementLine(problem=f"{TWO_EQUALS}: {text.replace('=', '==', 1)}", misspelt=True)
        meant = _SWAPPED.sub(r"\1=", text)
        try:
            Requirement(meant)
        except InvalidRequirement:
            told = f"it is no requirement as pip reads it: {str(error).splitlines()[0]}"
            return RequirementLine(problem=told, misspelt=True)
        return RequirementLine(problem=f"write {meant}", misspelt=True)
    if requirement.url is not None:
        return RequirementLine(problem="only packages of an index can be locked, no urls or version control")
    odd = next((each.version for each in requirement.specifier if not _is_version(each)), None)
    if odd is not None:
        return RequirementLine(problem=f"{odd} is not a version, and indexes are asked for versions alone")
    return RequirementLine(requirement=requirement, hashes=tuple(hashes))


def _is_version(part: Specifier) -> bool:
    if part.operator == "===":  # arbitrary equality (PEP 440) takes any text
        try:
            Version(part.version)
        except InvalidVersion:
            return False
    return True


def find_problem(line: str) -> str | None:
    """Why a lock cannot hold a logical line, also one that is an option; None where it can."""
    if not line.startswith("-"):
        return read_requirement_line(line).problem
    match = OPTION.fullmatch(line)
    name = SHORT.get(match["name"], match["name"]) if match else line
    if name == "--editable":
        return "only packages of an index can be locked, no folder that is installed in place"
    if match and name == "--find-links":
        served = match["value"].strip("'\" ").startswith(("http://", "https://"))
        return None if served else "a folder of this machine does not travel: name it in PIP_FIND_LINKS where you lock"
    if match and name in INDEXES - {"--no-index"} and not match["value"].strip("'\" "):
        return f"the option {name} names no index"
    if match and name in ("--only-binary", "--no-binary"):
        names = match["value"].strip("'\" ")
        if not names:
            return f"the option {name} names no package"
        if name == "--no-binary" and ":all:" in names:
            return "not all packages can be built from source distributions: name those that are to be"
    return None if name in FILES | INDEXES | CHOICES | WITHOUT_EFFECT else f"the option {name} cannot be locked"
