import ast
import errno
import inspect
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from readme_reference import commands

import kbuild.errors
import kbuild.scoring.errors
from kbuild.errors import KbuildError, ModelNotFound
from kbuild.refused import known_error, refused_by_system

FOUND = {
    each
    for module in (kbuild.errors, kbuild.scoring.errors)
    for _, each in inspect.getmembers(module, inspect.isclass)
    if issubclass(each, KbuildError)
}
CLASSES = sorted(FOUND, key=lambda each: each.__name__)


def test_every_cause_has_its_own_exit_code() -> None:
    # A special case of a cause has that one's code.
    codes = [c.exit_code for c in CLASSES if c is not KbuildError and "exit_code" in vars(c)]
    assert len(codes) == len(set(codes)) > 30
    assert all(2 < code < 126 for code in codes)


def test_every_class_says_what_it_is_for() -> None:
    assert [c.__name__ for c in CLASSES if not c.__doc__] == []


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ModelNotFound("no run", hint="look")))
    assert (type(error), error.message, error.hint) == (ModelNotFound, "no run", "look")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "kbuild cache prune"),
        (errno.EDQUOT, "kbuild cache prune"),
        (errno.EACCES, "KBUILD_CACHE_DIR"),
        (errno.EROFS, "KBUILD_CACHE_DIR"),
        (errno.EEXIST, "KBUILD_CACHE_DIR"),
        (errno.ENOTDIR, "KBUILD_CACHE_DIR"),
        (errno.ENAMETOOLONG, "KBUILD_CACHE_DIR"),
        (errno.ESTALE, "KBUILD_CACHE_DIR"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_what_the_kernel_refuses_is_one_short_line_with_a_remedy(tmp_path: Path, number: int, said: str) -> None:
    (tmp_path / "file").write_bytes(bytes(20_000_000))
    for name in (None, str(tmp_path), str(tmp_path / "wheels"), f"{tmp_path}/{'x' * 1_000_000}"):
        error = OSError(number, os.strerror(number), name)
        found = refused_by_system(error, cache=tmp_path)
        assert os.strerror(number) in found.message and "Errno" not in found.message
        assert "\n" not in found.message and len(found.message) < 600
        assert found.hint is not None and said in found.hint
        if number != errno.EMFILE:
            assert str(tmp_path) in found.message
        assert ("0.02 GB" in found.message) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_of_two_disks_the_full_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) names no file."""
    room = {"/scratch": 0, str(tmp_path): 1 << 30}
    monkeypatch.setenv("TMPDIR", "/scratch")
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_bavail=room[folder], f_frsize=1))
    error = OSError(errno.ENOSPC, "No space left on device")
    assert refused_by_system(error, cache=tmp_path).message.startswith("the temporary folder /scratch: ")
    room[str(tmp_path)] = 0
    assert refused_by_system(error, cache=tmp_path).message.startswith(f"the cache {tmp_path} ")


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("refused", ["", "..", "images/references"])
def test_a_cache_that_may_not_be_made_or_read_is_named(
    stated: bool, refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever it came: a command that only looks, or a user whose home is / (a container's)."""
    cache = tmp_path / "home" / "kbuild"
    monkeypatch.delenv("KBUILD_CACHE_DIR", raising=False)
    monkeypatch.setenv(*(("KBUILD_CACHE_DIR", str(cache)) if stated else ("XDG_CACHE_HOME", str(cache.parent))))
    found = known_error(PermissionError(errno.EACCES, "Permission denied", os.path.normpath(cache / refused)))
    assert found.message.startswith(f"the cache {cache}: Permission denied") and "KBUILD_CACHE_DIR" in str(found.hint)
    other = known_error(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "elsewhere" / "x")))
    assert "the cache" not in other.message and "KBUILD_CACHE_DIR" not in str(other.hint)
    folder = known_error(IsADirectoryError(errno.EISDIR, "Is a directory", str(tmp_path)))
    assert "the cache" not in folder.message, "a folder above it is not it"
    nothing = known_error(OSError(errno.ENOSPC, "No space left on device"))
    assert "the cache" not in nothing.message, "it may be anybody's"


def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/scratch")
    found = known_error(OSError(errno.ENOSPC, "No space left on device", "/scratch/a"))
    assert found.message == "the temporary folder /scratch: No space left on device: /scratch/a"
    assert "TMPDIR" in (found.hint or "")


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ECONNREFUSED, "start the server"), (errno.ETIMEDOUT, "proxy"), (errno.EADDRINUSE, "another port")],
)
def test_a_connection_that_fails_has_nothing_to_do_with_the_disk(number: int, said: str, tmp_path: Path) -> None:
    found = refused_by_system(OSError(number, os.strerror(number)), cache=tmp_path)
    assert found.message == os.strerror(number)
    assert found.hint is not None
    assert said in found.hint
    assert "disk" not in found.hint


def advice() -> Iterator[tuple[str, str]]:
    """Where a hint, or a line of what may be typed next, is said, and its text; … for what is filled in."""
    for path in Path(kbuild.errors.__file__).parent.rglob("*.py"):
        source = path.read_text("utf-8")
        if "hint" not in source and ".next(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            said: list[ast.expr | None] = [node.value] if isinstance(node, ast.keyword) and node.arg == "hint" else []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "next":
                said = [key for each in node.args if isinstance(each, ast.Dict) for key in each.keys]
            for each in (inner for value in said if value is not None for inner in ast.walk(value)):
                if isinstance(each, ast.JoinedStr):
                    parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in each.values)
                    yield f"{path.name}:{each.lineno}", "".join(parts)
                elif isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield f"{path.name}:{each.lineno}", each.value


def test_what_hints_say_to_type_can_be_typed() -> None:
    wrong, seen, known = [], 0, commands()
    for place, text in advice():
        for name, rest in re.findall(r"(?<!kedro )\bkbuild ([a-z]+)((?: [^ ,;()]+)*)", text):
            command, words = known.get(name), rest.split()
            if isinstance(command, click.Group):
                command = command.commands.get(words[0]) if words and words[0][0] != "-" else command
            options = {word for word in words if re.match("--?[a-z]", word)}
            # Prose names kbuild too, but says nothing to type of it.
            if command is None and (options or text.startswith(f"kbuild {name}")):
                wrong.append(f"{place}: no command {name} {rest}")
            if command is not None:
                there = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
                wrong += [f"{place}: kbuild {name} has no {option}" for option in sorted(options - there)]
                seen += 1
    assert wrong == [] and seen > 30
