"""What configurations have called by names, or evaluated, by those who read them: texts that are no code to look at.

Formats: Python's ``logging.config``, "Configuration dictionary schema" and "Configuration file format" (what a file of
it says of classes and their arguments is evaluated); MLflow's ``llama_index/serialize_objects.py``
(``object_constructor``); MONAI's "Model Bundle", whose values that begin with a dollar are expressions of Python;
zarr's ``.zarray``, ``.zmetadata`` and ``zarr.json``, in archives and in texts of others (kerchunk's references).
"""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator

from kbuild.audit.pickled.json_texts import unescaped

_LARGEST = 4 << 20  # bytes; what is larger is no configuration that anybody wrote
# A value of JSON or YAML may have a tag, an anchor or a line of its own before it.
_VALUE = (
    rb"[\"']?\s*:\s*(?:!(?:!str|<[^>\n]*>)?\s+|&\w+\s+|[>|][-+\d]*\s+|\[\s*)*[\"']?(?:ext://)?([A-Za-z_]\w*(?:\.\w+)+)"
)
_ESCAPE = re.compile(rb"\\x([2-7][0-9a-fA-F])")  # of texts of YAML in quotes
_OF_LOGGING = re.compile(rb"\b(?:handlers|formatters|filters|loggers)\b")
_VERSION = re.compile(rb"\bversion[\"']?\s*:")
_FACTORY = re.compile(rb"\(\)" + _VALUE)
_CLASS = re.compile(rb"\b(?:class|queue|listener)" + _VALUE)
_OUTSIDE = re.compile(rb"ext://([A-Za-z_]\w*(?:\.\w+)*)")
_KNOWN = re.compile(
    r"logging\.(handlers\.)?[A-Z]\w+|sys\.std(in|out|err)|queue\.(Simple)?Queue|rich\.logging\.RichHandler"
    r"|kedro\.(framework\.project|logging)\.[A-Z]\w+|uvicorn\.logging\.[A-Z]\w+"
    r"|pythonjsonlogger\.(json|jsonlogger)\.[A-Z]\w+|colorlog\.[A-Z]\w+"
)
_CONSTRUCTED = re.compile(rb"\bobject_constructor" + _VALUE)
_OF_LLAMA_INDEX = re.compile(r"llama_index(\.\w+)+")
# A dollar before a name alone is a text as others; keys, as "$ref", and merges of tokens have no call.
_EXPRESSION = re.compile(
    rb"[:\[,]\s*\\*[\"']\$\s*"
    rb"(?:import\s|[A-Za-z_@][\w.@#:]*\s*[(\[](?!\\*[\"']\s*[,\]}])|[(\[{]?\s*(?:__|lambda\b))"
)
_UNPICKLES = re.compile(rb'\\*"(?:id|name)\\*"\s*:\s*\\*"(?:numcodecs[./])?pickle\\*"')
_SECTIONS = re.compile(rb"^\[(?:loggers|handlers|formatters)\]", re.MULTILINE)


def called_by_configurations(data: bytes) -> tuple[dict[tuple[str, str], None], dict[str, None]]:
    """The modules and names that configurations in these bytes have called, what is ordinary there left out, and what
    else they do."""
    named: dict[tuple[str, str], None] = {}
    problems: dict[str, None] = {}
    if b"zarr_format" in data or b"\\u00" in data or b"\0" in data[:4]:
        text = unescaped(data)
        if b"zarr_format" in text and _UNPICKLES.search(text) is not None:
            problems["unpickles its arrays as they are read: their codec is pickle"] = None
    if len(data) > _LARGEST:
        return named, problems
    text = unescaped(data)
    if b"\\x" in text:
        text = _ESCAPE.sub(lambda each: bytes([int(each[1], 16)]), text)
    for name in _names(text):
        module, _, last = name.rpartition(".")
        named[module, last] = None
    if _EXPRESSION.search(text) is not None:
        problems["evaluates a text: a value that begins with a dollar, which MONAI takes for Python"] = None
    if _SECTIONS.search(text) is not None:
        problems |= dict.fromkeys(_of_files(text))
    return named, problems


def _names(text: bytes) -> Iterator[str]:
    if _OF_LOGGING.search(text) is not None:
        found = _FACTORY.findall(text)
        if _VERSION.search(text) is not None:
            found += _CLASS.findall(text) + [each for each in _OUTSIDE.findall(text) if b"." in each]
        yield from (name for each in found if _KNOWN.fullmatch(name := each.decode()) is None)
    for each in _CONSTRUCTED.findall(text):
        if _OF_LLAMA_INDEX.fullmatch(each.decode()) is None:
            yield each.decode()


def _of_files(text: bytes) -> Iterator[str]:
    """What ``logging.config.fileConfig`` evaluates that is more than plain values."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text.decode("latin-1"))
    except configparser.Error:
        return  # nor does Python read it
    for section in parser.sections():
        for key in ("class", "args", "kwargs"):
            value = parser.get(section, key, fallback="")
            if section.startswith(("handler_", "formatter_")) and not _is_plain(value, named=key == "class"):
                yield f"evaluates a text where it configures logging: {value!r:.60}"


def _is_plain(value: str, *, named: bool) -> bool:
    if named:
        known = f"logging.{value}" if value.count(".") == int(value.startswith("handlers.")) else value
        return not value or _KNOWN.fullmatch(known) is not None
    try:
        tree = ast.parse(value.strip() or "()", mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    kinds = (ast.Expression, ast.Tuple, ast.List, ast.Dict, ast.Constant, ast.Load, ast.UnaryOp, ast.USub, ast.Name)
    return all(isinstance(node, kinds) or _is_stated(node) for node in ast.walk(tree))


def _is_stated(node: ast.AST) -> bool:
    """Whether it is an attribute of a module that is a value: ``sys.stdout``, ``handlers.SysLogHandler.LOG_USER``."""
    if not isinstance(node, ast.Attribute):
        return False
    written = ast.unparse(node)
    return re.fullmatch(r"sys\.std(in|out|err)|(logging\.)?handlers\.\w+(\.LOG_\w+)?", written) is not None
