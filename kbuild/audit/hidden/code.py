"""Code in a model's files that does not look like code: programs in archives, templates of chats, sources in codings
that readers show otherwise than Python runs them.

Formats: PEP 263 for the coding of a source; ``chat_template`` of Hugging Face's ``tokenizer_config.json`` and
``*.jinja`` beside it, a Jinja template, which transformers renders in a sandbox and others without one; the archives of
torch.export (``.pt2``), which hold compiled programs.
"""

from __future__ import annotations

import codecs
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from kbuild.audit.finding import Unchecked
from kbuild.audit.pickled.json_texts import unescaped

NATIVE = frozenset({".so", ".pyd", ".dylib", ".dll"})
PROGRAMS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xca\xfe\xba\xbe", b"MZ\x90\0")
"""How they begin: of Linux, of macOS (of either order, and of several machines) and of Windows."""
_BEGIN = max(map(len, PROGRAMS))
_MEMBERS = 100_000  # of an archive that are looked into
_LARGEST = 64 << 20  # bytes; what is larger is no configuration that anybody wrote
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
# What is ASCII's in these is what anybody reads.
_PLAIN = frozenset({"ascii", "utf-8", "utf-8-sig", "iso8859-1", "iso8859-15", "cp1252"})
_TEMPLATES = (".jinja", ".jinja2", ".j2")
# Clean templates take neither: what begins with underscores, by name or put together, leads out of the values.
_LEADS_OUT = re.compile(
    rb"__[A-Za-z]\w*__|\|\s*attr\b|\|\s*(?:map|selectattr|rejectattr|groupby)\s*\([^)]*['\"]_|\\+x5f|\\+u005f|\\+137",
    re.IGNORECASE,
)


def read_code_inside(root: Path, paths: Iterable[PurePosixPath], own: Iterable[PurePosixPath]) -> Iterator[Unchecked]:
    """What of it was not looked at, in all files of a model; ``own`` are those of its own code."""
    for path in paths:
        yield from _programs(root, path)
        yield from _template(root, path)
    for path in own:
        if path.suffix == ".py":
            yield from _coding(root, path)


def _programs(root: Path, path: PurePosixPath) -> Iterator[Unchecked]:
    if not zipfile.is_zipfile(root / path):
        return
    try:
        with zipfile.ZipFile(root / path) as archive:
            for member in archive.infolist()[:_MEMBERS]:
                if _is_program(archive, member):
                    yield native(f"{path}!{member.filename}")
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # what cannot be opened the check of pickles tells


def _is_program(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    if PurePosixPath(member.filename).suffix in NATIVE:
        return True
    try:
        with archive.open(member) as file:
            return file.read(_BEGIN).startswith(PROGRAMS)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError):
        return False


def native(where: str) -> Unchecked:
    """Of native code."""
    reason = "it is native code of the model's own, which no scan can judge"
    return Unchecked(check="code", where=where, reason=reason, remedy="build it where you can see its sources")


def _template(root: Path, path: PurePosixPath) -> Iterator[Unchecked]:
    is_template = path.suffix in _TEMPLATES
    if (not is_template and path.suffix != ".json") or (root / path).stat().st_size > _LARGEST:
        return
    data = unescaped((root / path).read_bytes())
    if (is_template or b'"chat_template"' in data) and (found := _LEADS_OUT.search(data)) is not None:
        reason = f"its template of chats reaches for Python's own ({found[0].decode():.40}): rendered, it may run code"
        remedy = "read the template; take that of the model's publisher, and render it in Jinja's sandbox alone"
        yield Unchecked(check="code", where=str(path), reason=reason, remedy=remedy)


def _coding(root: Path, path: PurePosixPath) -> Iterator[Unchecked]:
    with (root / path).open("rb") as file:
        first = [file.readline(1 << 12) for _ in range(2)]
    found = next((each for line in first if (each := _CODING.match(line)) is not None), None)
    if found is None:
        return
    named = found[1].decode("ascii", "replace")
    try:
        coding = codecs.lookup(named).name
    except (LookupError, ValueError):
        coding = named
    if coding not in _PLAIN:
        reason = f"it is in the coding {named:.40}: what a reader shows of it is not what Python runs"
        yield Unchecked(check="code", where=str(path), reason=reason, remedy="save it as UTF-8, and read it then")
