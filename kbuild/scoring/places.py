"""Files and folders to read tables from and to write answers to: paths of this machine, and urls by fsspec.

Where the model's packages have no fsspec, or none for a url's scheme, that is said.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from kbuild.scoring.errors import InputRefused, hint_scheme

_CHUNK = 1 << 20
_GLOB = "*?["
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class Place:
    """A folder or file; ``text`` is its path, or a url with ``://``; ``shown`` is what may be written down of it."""

    def __init__(self, text: str) -> None:
        self.text = text.removeprefix("file://")
        self._fs: Any = None
        if "://" in self.text:
            _refuse_credentials(self.text)
            self._fs, self._root = _filesystem(self.text)
        else:
            # Whoever is given the place may be in another folder; links stay links.
            self.text = self._root = os.path.abspath(self.text)  # noqa: PTH100
        self.shown = without_query(self.text)

    @property
    def name(self) -> str:
        """The last part."""
        return self._root.rstrip("/").rpartition("/")[2]

    def beside(self, name: str) -> Place:
        """Another place in the same folder."""
        return Place(self.text.rstrip("/").rpartition("/")[0] + "/" + name if "/" in self.text else name)

    def tables(self, endings: tuple[str, ...]) -> list[str]:
        """The files that are meant, sorted: itself, those below a folder, those that fit a pattern."""
        if self._fs is not None:
            return self._remote_tables(endings)
        path = Path(self._root)
        if path.is_dir():
            return sorted(each for each in _files_below(self._root) if _is_table(each[len(self._root) :], endings))
        if path.is_file():
            return [str(path)]
        if any(sign in self._root for sign in _GLOB):
            depth = self._root.split("/")
            top = _first_pattern(depth)
            found = Path("/".join(depth[:top]) or "/").glob("/".join(depth[top:]))
            return sorted(str(each) for each in found if each.is_file() and _is_table(each.name, endings))
        return []

    def partitions(self, path: str) -> dict[str, str | None]:
        """What the names of folders say of a table that was found here: of ``year=2024/x.parquet`` that year is 2024.

        As Hive, Spark and Arrow have it. Folders that are themselves named are none of the table's.
        """
        parts = self.text.rstrip("/").split("/")
        patterns = any(sign in self.text for sign in _GLOB)
        named = {*(parts[: _first_pattern(parts)] if patterns else parts)}
        found = (each.split("=", 1) for each in path.split("/")[:-1] if "=" in each.lstrip("=") and each not in named)
        return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, value in found}

    def lacks(self) -> str:
        """What is to be said where it has no table."""
        found = "has no table in it" if self.exists() else "is not there"
        return "fits no table" if any(sign in self._root for sign in _GLOB) else found

    def _remote_tables(self, endings: tuple[str, ...]) -> list[str]:
        # In a url of http a ? begins the query, as fsspec has it too.
        if any(sign in without_query(self._root) for sign in _GLOB):
            found = self._fs.glob(self._root)
        elif self._is_http() and without_query(self._root).lower().endswith(endings):
            # A server has no folders: to look for one reads the whole file.
            found = [self._root]
        elif self._fs.isdir(self._root):
            top = len(self._root.rstrip("/")) + 1
            found = [each for each in self._fs.find(self._root) if _is_table(each[top:], endings)]
        else:
            found = [self._root] if self._fs.exists(self._root) else []
        return sorted(self._fs.unstrip_protocol(each) for each in found)

    def finds(self, other: Place, endings: tuple[str, ...]) -> bool:
        """Whether ``tables`` would name another place if a file were there."""
        if type(self._fs) is not type(other._fs):
            return False
        theirs = other._root.split("/")
        if self._fs is None:
            theirs = [*os.path.realpath(other._root.rpartition("/")[0]).split("/"), theirs[-1]]
        depth = self._root.rstrip("/").split("/")
        folder = Path(self._root).is_dir() if self._fs is None else self._fs.isdir(self._root)
        if not folder and not any(sign in self._root for sign in _GLOB):
            return False
        top = len(depth) if folder else _first_pattern(depth)
        begin = depth[:top] if self._fs is not None else os.path.realpath("/".join(depth[:top]) or "/").split("/")
        below = theirs[len(begin) :]
        if theirs[: len(begin)] != begin or not below:
            return False
        if folder:
            return _is_table("/".join(below), endings)
        return _is_table(below[-1], endings) and _fits(below, depth[top:])

    @contextmanager
    def reading(self) -> Iterator[IO[bytes]]:
        """The file's bytes."""
        with self._fs.open(self._root, "rb") if self._fs is not None else Path(self._root).open("rb") as file:
            yield file

    def content(self) -> str:
        """What tells this content from every other: its sha256, of a url what its store says of it."""
        # A server's ETag is of one url (RFC 9110 section 8.8.3), and what is written down has no query.
        tells = self._fs is not None and self.shown == self.text
        if tells and (not self._is_http() or "ETag" in self._fs.info(self._root)):
            return self.stamp()
        state = hashlib.sha256()
        with self.reading() as file:
            while chunk := file.read(_CHUNK):
                state.update(chunk)
        return state.hexdigest()

    def stamp(self) -> str:
        """What changes when the file does; costs no read of it."""
        if self._fs is not None and self._is_http():
            # fsspec's ukey is of the url alone: it takes whatever a url names for what never changes.
            told = self._fs.info(self._root)
            return " ".join(f"{name} {told[name]}" for name in ("ETag", "Last-Modified", "size") if told.get(name))
        if self._fs is not None:
            return str(self._fs.ukey(self._root))
        status = Path(self._root).stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def _is_http(self) -> bool:
        protocol = self._fs.protocol
        return bool({"http", "https"} & {*([protocol] if isinstance(protocol, str) else protocol)})

    # Of a folder that answers are written to:

    def read(self, name: str) -> bytes | None:
        """A file of this folder, None where it has none of that name."""
        try:
            if self._fs is not None:
                return bytes(self._fs.cat_file(f"{self._root}/{name}"))
            return Path(self._root, name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, folder: str = "") -> list[str]:
        """The names of what lies in it, or in a folder of it."""
        path = f"{self._root}/{folder}".rstrip("/")
        if self._fs is not None:
            self._fs.invalidate_cache()
            found = self._fs.ls(path, detail=False) if self._fs.isdir(path) else []
            return sorted(each.rstrip("/").rpartition("/")[2] for each in found)
        return sorted(os.listdir(path)) if Path(path).is_dir() else []  # noqa: PTH208

    def exists(self, name: str = "") -> bool:
        """Whether there is a file of this name in it; without one, whether anything is there."""
        path = f"{self._root}/{name}".rstrip("/")
        return bool(self._fs.exists(path)) if self._fs is not None else Path(path).exists()

    def write(self, name: str, data: bytes) -> None:
        """Write a small file whole."""
        with self.writing(name) as path:
            path.write_bytes(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write to; what it holds at the end of the block appears under ``name`` whole, or not at all."""
        if self._fs is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "new")
                yield path
                target = f"{self._root}/{name}"
                temporary = f"{self._root}/_kbuild/new-{uuid.uuid4().hex}"
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.makedirs(temporary.rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(path), temporary)
                self._fs.mv(temporary, target)
            return
        goal = Path(self._root, name) if name else Path(self._root)
        new = Path(self._root, "_kbuild") if name else goal.parent
        for each in (goal.parent, new):
            each.mkdir(parents=True, exist_ok=True)
        path = new / f".new-{uuid.uuid4().hex}"
        try:
            yield path
            with path.open("rb") as file:
                os.fsync(file.fileno())  # its name must not outlive a crash that its bytes do not
            path.replace(goal)
        finally:
            path.unlink(missing_ok=True)

    def remove(self, name: str = "") -> None:
        """Remove a file or folder of it, or itself; what is not there is no error."""
        path = f"{self._root}/{name}".rstrip("/")
        if self._fs is not None:
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)
        elif Path(path).is_dir():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)


def without_query(text: str) -> str:
    """A url of http without its query, which may hold a signature that lets everybody read it; else the text itself."""
    return re.split("[?#]", text, maxsplit=1)[0] if re.match("(?i)https?://", text) else text


def without_queries(text: str) -> str:
    """The same of all urls in a text, a driver's words for instance."""
    return re.sub(r"(?i)(https?://[^\s?#'\"]*)[?#][^\s'\"]*", r"\1", text)


def _files_below(top: str) -> Iterator[str]:
    """Links to folders elsewhere are followed, once each; what lies in ``top`` is found where it lies."""
    real = os.path.realpath(top)
    seen = {real}
    for folder, folders, files in os.walk(top, onerror=_refuse, followlinks=True):
        following = []
        for path in (f"{folder}/{name}" for name in sorted(folders)):
            goal = os.path.realpath(path)
            within = any(_is_within(*pair) for pair in ((goal, real), (real, goal)))
            if goal not in seen and not (within and os.path.islink(path)):  # noqa: PTH114
                seen.add(goal)
                following.append(path.rpartition("/")[2])
        folders[:] = following
        yield from (path for name in files if os.path.isfile(path := f"{folder}/{name}"))  # noqa: PTH113


def _refuse(error: OSError) -> None:
    raise InputRefused(f"{error.filename}: {error.strerror}") from error  # else its tables would be left out


def _is_within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _first_pattern(parts: list[str]) -> int:
    return next(number for number, part in enumerate(parts) if any(sign in part for sign in _GLOB))


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path is one of a pattern's, whose ``**`` is any number of folders."""
    if not pattern or not parts:
        return not parts and all(each == "**" for each in pattern)
    if pattern[0] == "**":
        return _fits(parts[1:], pattern) or _fits(parts, pattern[1:])
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _is_table(path: str, endings: tuple[str, ...]) -> bool:
    """Other tools' folders of tables have markers, which begin with _ or ."""
    hidden = any(part.startswith(("_", ".")) for part in path.split("/"))
    return not hidden and any(fnmatch.fnmatch(path.lower(), f"*{ending}") for ending in endings)


def _refuse_credentials(url: str) -> None:
    """Raises InputRefused for a url with a password, or for http with any user: it stands in whatever is written.

    RFC 3986 section 3.2.1. Of a chain of fsspec's each url is looked at.
    """
    for scheme, user in re.findall(r"([A-Za-z0-9+.-]+)://([^/?#]*)@", url):
        if ":" in user or scheme.lower() in ("http", "https"):
            shown = re.sub(r"://[^/?#]*@", "://", url)
            raise InputRefused(
                f"{shown} is given with credentials, which would be written down with the answers",
                hint="give them to fsspec by its configuration or its driver's environment variables",
            )


def _filesystem(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputRefused(
            f"{scheme} urls cannot be read with the model's packages: {reason}",
            hint="add fsspec and its driver to the model's requirements, or name a file",
        ) from error
    except ValueError as error:
        raise InputRefused(f"{without_query(url)}: {' '.join(str(error).split())}", hint=hint_scheme(scheme)) from error
    return found, str(path)
