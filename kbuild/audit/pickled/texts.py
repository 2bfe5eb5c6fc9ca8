"""What is written in texts: bytes in base64, base32, base85, hexadecimal figures and as mails and urls have them, and
objects in YAML and JSON.

Formats: RFC 4648; RFC 1924 and Adobe's Ascii85, as Python's ``base64`` reads them; POSIX' uuencode; RFC 2045, 6.7
(quoted-printable); RFC 3986, 2.1 (percent-encoding); PyYAML's documentation, "YAML tags
and Python types"; jsonpickle's ``tags.py``; skops' ``io/_audit.py`` (``Node``) and ``io/_general.py``.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import pickletools
import re
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote_to_bytes

from kbuild.audit.pickled.effort import Effort
from kbuild.audit.pickled.json_texts import objects_of_json, unescaped

SHORTEST = 16
"""Characters of a text that may stand for a pickle."""
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
# Between the lines of what is encoded, in texts and in texts of JSON.
_LINE_END = re.compile(rb"(?:\r?\n|(?:\\r)?\\n)[ \t]*(?=[\w+/-])")
_HEXADECIMAL = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}")
_BASE32 = re.compile(rb"[A-Z2-7]{16,}|[a-z2-7]{16,}")
# Runs of base85's own letters that are no word: a text of words has none of so many without a space.
_BASE85 = re.compile(rb"[0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{20,}")
_ASCII85 = re.compile(rb"<~([!-uz\s]{10,}?)~>|\A([!-uz\s]{20,})\Z")
# Digits by their letters; Ascii85's z stands for five zeros.
_B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_ZEROS = b"\xff"
_DIGITS = bytes(max(_B85.find(each), 0) for each in range(256))
_DIGITS_OF_ASCII85 = bytes(0xFF if each == ord("z") else max(each - 33, 0) % 256 for each in range(256))
_LONG, _PIECE = 1 << 12, 1 << 20
_UUENCODED = re.compile(rb"^begin [0-7]{3,4} [^\n]{1,200}\n((?:[ -`]{1,90}\r?\n)+)", re.MULTILINE)
_ESCAPES = 3  # of a text in which they stand for bytes
_IN_URLS = re.compile(rb"[!#-&(-;=?-~]{16,}")
_PRINTABLE = re.compile(rb"[\t\r\n -~]{16,}")
_QUOTED = re.compile(rb"=[0-9A-F]{2}")
_OF_TEXTS = b"\t\r\n" + bytes(range(0x20, 0x7F))
# Letters of a text before which others may stand that are none of it, as formats that are no texts have lengths there.
_SURE = 64
_WRITTEN = LETTERS + b"!#$%&()*;<=>?@^`{|}~\r\n"
_MASK = bytes(1 if each in LETTERS else 0 for each in range(256))
# What a pickle, and what is packed, may begin with: opcodes that need nothing before them, and gzip, bz2, xz, lzma,
# zstd, lz4, zlib of any window, zip, npy, tar of a named file.
_OPCODES = frozenset(each.code.encode("latin-1") for each in pickletools.opcodes if not each.stack_before)
_PACKED = b"\x1fB\xfd](\x04\x08\x18\x28\x38\x48\x58\x68\x78P\x93Z"
_BEGIN = frozenset({each[0] for each in _OPCODES} | set(_PACKED))
# A tag at the place of one, in a quoted text it is none: verbatim, or a handle and what is put behind its prefix. After
# a letter of UTF-8 that stands for a blank too.
_TAG = re.compile(rb"!(?:(?<=[\s,\[{:?\x85\xa8\xa9\xbf-]!)|(?<=\A!))(?:(<)|([\w-]*!)?)([\w;/?:@&=+$,.!~*'()\[\]%#-]+)")
_HANDLE = re.compile(rb"%TAG +(!(?:[\w-]*!)?) +([^\s]+)")
_YAML_OWN = b"tag:yaml.org,2002:"
_PYTHON = re.compile(rb"tag:yaml\.org,2002:python/(object(?:/apply|/new)?|name|module):([A-Za-z_][\w.]*)")
# In texts of JSON, as its keys are that are objects, quotes have strokes before them.
_JSON = re.compile(rb'\\*"py/(?:object|type|function|class)\\*"\s*:\s*\\*"([A-Za-z_][\w.]*)\\*"')
_IMPORTED = re.compile(rb'"py/mod\\*"\s*:\s*\\*"([A-Za-z_][\w.]*)')
# What hydra's ``instantiate`` calls ("Instantiating objects", in its docs), in YAML or JSON.
_INSTANTIATED = re.compile(
    rb"_target_[\"']?\s*:\s*(?:!(?:!str|<[^>\n]*>)?\s+|&\w+\s+|[>|][-+\d]*\s+)*[\"']?([A-Za-z_]\w*(?:\.\w+)+)"
)
_EVALUATED = re.compile(rb'"py/repr\\*"\s*:\s*\\*"')


def is_written(data: bytes) -> bool:
    """Whether it is letters and figures alone, as bytes are written in."""
    return len(data) >= SHORTEST and not data.translate(None, _WRITTEN)


def objects_in(data: bytes, effort: Effort) -> tuple[dict[tuple[str, str], None], dict[str, None]]:
    """The modules and names that objects in YAML (as PyYAML's unsafe loaders read it) and in JSON (as jsonpickle does)
    are made by, and what else is run. Raises TooMuch."""
    named: dict[tuple[str, str], None] = {}
    problems: dict[str, None] = {}
    for tag in _tags_of_yaml(data, effort):
        match = _PYTHON.match(tag)
        if match is None:
            continue
        module, _, last = match[2].decode().rpartition(".")
        if match[1] == b"module":
            problems[f"imports the module {match[2].decode():.60}"] = None
        else:
            named[module or "builtins", last] = None
    text = unescaped(data)
    if b'"py/' in text:
        for name in _JSON.findall(text):
            module, _, last = name.decode().rpartition(".")
            named[module or "builtins", last] = None
        for name in _IMPORTED.findall(text):
            problems[f"imports the module {name.decode():.60}"] = None
        if _EVALUATED.search(text):
            problems["evaluates a text"] = None
    if b"_target_" in text:
        for name in _INSTANTIATED.findall(text):
            module, _, last = name.decode().rpartition(".")
            named[module or "builtins", last] = None
    if b'"__loader__"' in text:
        for value in objects_of_json(data, effort):
            _add_of_skops(value, named, problems)
    return named, problems


def _add_of_skops(value: Any, named: dict[tuple[str, str], None], problems: dict[str, None]) -> None:
    """The types that a file of skops is made of. It loads those that are trusted: the MLmodel beside it says which."""
    pending = [value]
    while pending:
        each = pending.pop()
        pending.extend(each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        if not isinstance(each, dict) or "__loader__" not in each:
            continue
        content = each.get("content")
        inner = content if isinstance(content, dict) else {}
        for module, name in (("__module__", "__class__"), ("module_path", "function")):
            of = each if module in each else inner
            if module in of:
                named[str(of[module]), str(of.get(name))] = None
        if each["__loader__"] == "MethodNode":
            problems[f"takes the attribute {str(inner.get('func'))!r:.60} of an object"] = None


def _tags_of_yaml(data: bytes, effort: Effort) -> Iterator[bytes]:
    """Its tags in full (YAML 1.1, 6.8.2 and 6.9.1, as PyYAML's scanner and parser read them)."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        data = data.decode("utf-16", "replace").encode()
    prefixes: dict[bytes, dict[bytes, None]] = {b"!": {b"!": None}, b"!!": {_YAML_OWN: None}}
    for handle, prefix in _HANDLE.findall(data):
        prefixes.setdefault(handle, {})[prefix] = None
    for match in _TAG.finditer(data):
        verbatim, named, rest = match.groups()
        handle = b"!" + (named or b"")
        for prefix in (b"",) if verbatim else prefixes.get(handle, ()):
            effort.look(1)
            yield unquote_to_bytes(prefix + rest)


def decoded(data: bytes, effort: Effort) -> Iterator[tuple[str, bytes]]:
    """How bytes are written in ``data``, and the bytes, in any way that it may be read. Raises TooMuch."""
    yield from _in_base85(data, effort)
    yield from _escaped(data, effort)
    in_lines = yield from _as_it_is(data)
    joined = _joined(data) if in_lines else data
    if len(joined) != len(data):
        effort.expand(len(joined))
        yield from _as_it_is(joined)


def _as_it_is(data: bytes) -> Generator[tuple[str, bytes], None, bool]:
    """And whether a line may end within one."""
    mask, in_lines = data.translate(_MASK), False
    least = b"\x01" * SHORTEST
    begin = mask.find(least)
    while begin >= 0:
        end = mask.find(b"\0", begin)
        text = data[begin : end if end >= 0 else len(data)]
        if _HEXADECIMAL.fullmatch(text):
            with contextlib.suppress(ValueError):
                yield ">hex", bytes.fromhex(text.decode())
        yield ">base64", _from_base64(text)
        around = data[begin - 1 : begin] + data[begin + len(text) : begin + len(text) + 1]
        if around.translate(None, _OF_TEXTS):
            yield from _behind_others(text)
        if _BASE32.fullmatch(text):
            with contextlib.suppress(binascii.Error):
                yield ">base32", base64.b32decode(text + b"=" * (-len(text) % 8), casefold=True)
        in_lines = in_lines or data[begin + len(text) : begin + len(text) + 1] in (b"\r", b"\n", b"\\")
        begin = mask.find(least, begin + len(text))
    return in_lines


def _from_base64(text: bytes) -> bytes:
    whole = text[:-1] if len(text) % 4 == 1 else text  # of another text, what comes after it
    return base64.b64decode(whole.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(whole) % 4))


def _behind_others(text: bytes) -> Iterator[tuple[str, bytes]]:
    """What it may be where its first letters are of something else."""
    for first in (1, 2, 3):
        content = _from_base64(text[first:])
        if len(text) >= _SURE or (content and content[0] in _BEGIN):
            yield ">base64", content
    for match in () if _HEXADECIMAL.fullmatch(text) else _HEXADECIMAL.finditer(text):
        figures = text[match.start() : match.end() + 1]
        for first in (0, 1):
            pairs = _HEXADECIMAL.match(figures, first)
            if pairs is not None:
                yield ">hex", bytes.fromhex(pairs[0].decode())


def _escaped(data: bytes, effort: Effort) -> Iterator[tuple[str, bytes]]:
    """As mails and urls have bytes: most of them as they are."""
    for match in _UUENCODED.finditer(data):
        with contextlib.suppress(binascii.Error):
            yield ">uuencode", b"".join(map(binascii.a2b_uu, match[1].splitlines()))
    if data.count(b"%") >= _ESCAPES:
        for match in _IN_URLS.finditer(data):
            if match[0].count(b"%") >= _ESCAPES:
                effort.expand(len(match[0]))
                yield ">percent", unquote_to_bytes(match[0])
    if data.count(b"=") >= _ESCAPES:
        for match in _PRINTABLE.finditer(data):
            if sum(1 for _ in islice(_QUOTED.finditer(match[0]), _ESCAPES)) >= _ESCAPES:
                effort.expand(len(match[0]))
                yield ">quoted-printable", binascii.a2b_qp(match[0])


def _in_base85(data: bytes, effort: Effort) -> Iterator[tuple[str, bytes]]:
    for match in _BASE85.finditer(data):
        with contextlib.suppress(ValueError):
            # It is slow. Nearly always it has a sign that words have not.
            if match[0].translate(None, LETTERS) or base64.b85decode(match[0][:5])[0] in _BEGIN:
                yield ">base85", _from_base85(match[0], effort)
    if not data.translate(None, LETTERS):
        return
    for match in _ASCII85.finditer(data):
        with contextlib.suppress(ValueError):
            yield ">ascii85", _from_ascii85(match[1] or match[2], effort)


def _from_base85(text: bytes, effort: Effort) -> bytes:
    return base64.b85decode(text) if len(text) < _LONG else _groups(text.translate(_DIGITS), effort)


def _from_ascii85(text: bytes, effort: Effort) -> bytes:
    if len(text) < _LONG or b"\f" in text:
        return base64.a85decode(text)
    return _groups(text.translate(_DIGITS_OF_ASCII85, b" \t\n\r\v"), effort)


def _groups(digits: bytes, effort: Effort) -> bytes:
    """Four bytes of each five digits, in pieces: ``base64`` holds an object of each digit. Raises ValueError."""
    import numpy  # most models have no such text

    found, rest = bytearray(), b""
    for at in range(0, len(digits), _PIECE):
        piece = rest + digits[at : at + _PIECE].replace(_ZEROS, bytes(5))
        whole = len(piece) // 5 * 5
        last = at + _PIECE >= len(digits)
        left = len(piece) - whole if last else 0
        groups, rest = piece[:whole] + (piece[whole:] + b"\x54" * (5 - left) if left else b""), piece[whole:]
        numbers = numpy.frombuffer(groups, numpy.uint8).reshape(-1, 5).astype(numpy.uint64)
        values = numbers @ numpy.array([85**4, 85**3, 85**2, 85, 1], numpy.uint64)
        if (values >> numpy.uint64(32)).any():
            raise ValueError("five digits are more than four bytes")
        effort.expand(4 * len(values))
        found += values.astype(">u4").tobytes()
        del found[len(found) - (5 - left) if left else len(found) :]
    return bytes(found)


def _joined(data: bytes) -> bytes:
    """Without the ends of lines that may be lines of base64, those included that are ones once others are put together:
    from left to right, so that each line is looked at once."""
    found, last, at, kept = [], b"", 0, 0
    for end in _LINE_END.finditer(data):
        line = data[at : end.start()]
        last = (last + line)[-SHORTEST:]
        if len(last) < SHORTEST or last.translate(None, LETTERS):
            last = (last + end[0])[-SHORTEST:]
        else:
            found.append(data[kept : end.start()])
            kept = end.end()
        at = end.end()
    return b"".join((*found, data[kept:]))
