"""What others wrote, read at each place where it comes in: one line of that place's own error, and an end."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kbuild.audit.sources.advisories import read_advisories
from kbuild.errors import ConfigurationError, InvalidImage, InvalidModel, KbuildError, RecordingError
from kbuild.managers.conda_names import read_names
from kbuild.model.bundle import read_bundle
from kbuild.project.config import read_config
from kbuild.recording.shipment.given import read_conda_env
from kbuild.untrusted import BrokenText, folded, parse_json, parse_yaml, read_text
from kbuild.verify.verify_image import read_example

LETTERS = "abcdefghij"


def _bomb(item: str) -> str:
    """Ten times what the line before stands for, on each line."""
    pairs = itertools.pairwise(LETTERS)
    lines = (f"{name}: &{name} {item % ', '.join([f'*{other}'] * 10)}" for other, name in pairs)
    return "\n".join(["a: &a {x: 1, y: 2}", *lines])


HOSTILE = {
    "deep JSON": b"[" * 5_000,
    "deep JSON to its end": b"[" * 5_000 + b"]" * 5_000,
    "not so deep JSON": b'{"a":' * 300 + b"1" + b"}" * 300,
    "not so deep block": b"- " * 300 + b"x",
    "deep by aliases": b"- &a0 [x]\n" + b"".join(b"- &a%d [*a%d]\n" % (n, n - 1) for n in range(1, 300)),
    "deep YAML": b"{a: " * 5_000,
    "deep block": b"- " * 5_000 + b"x",
    "alias bomb": _bomb("[%s]").encode(),
    "merge bomb": _bomb("{<<: [%s]}").encode(),
    "itself": b"&a [*a]",
    "no UTF-8": b"a: \xff\xfe",
    "NUL": b"\0",
    "number without a digit": b"!!int ''",
    "no truth": b"!!bool x",
    "no day": b"2001-99-99",
    "too many digits": b"9" * 5_000,
}
"""What no reader of YAML gets through, or should."""
BARE = {"empty": b"", "endless number": b"1e999999", "infinite": b"1.0e+999999"}
"""What can be read and is none of what is asked for."""
NO_FILE = ("pipe", "folder", "large")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_text_is_one_error(kind: str) -> None:
    for parse in (parse_yaml, parse_json):
        if parse is parse_json and kind == "no UTF-8":
            continue
        with pytest.raises(BrokenText) as caught:
            parse(HOSTILE[kind])
        assert str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_what_can_be_read_is_what_pyyaml_reads() -> None:
    text = "a: &a {x: 1.5, y: [2001-01-01, null]}\nb: {<<: *a, x: yes}\nc: [*a, *a]\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None and parse_json('{"a": 1e999999}') == {"a": float("inf")}


def lay(path: Path, kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.write_bytes((HOSTILE | BARE)[kind])
    return path


def test_a_text_of_more_values_than_anybody_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.untrusted._MOST_VALUES", 20_000)
    few, many = ("- a\n" * count for count in (18_000, 21_000))
    assert len(parse_yaml(few)) == 18_000
    with pytest.raises(BrokenText, match="more than 20,000 values"):
        parse_yaml(many)


@pytest.mark.parametrize("kind", NO_FILE)
def test_what_is_no_file_of_a_bounded_size_is_not_read(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BrokenText):
        read_text(lay(tmp_path / "a", kind))


def _model(name: str) -> Callable[[Path, str], object]:
    def read(folder: Path, kind: str) -> object:
        flavor = {"python_function": {"env": "conda.yaml", "python_version": "3.11.7"}}
        (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavor}), "utf-8")
        (folder / "conda.yaml").write_text("dependencies: []", "utf-8")
        (folder / name).unlink()
        lay(folder / name, kind)
        return read_bundle(folder)

    return read


class Image:
    """An image that is asked for its MLmodel."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_file(self, path: str) -> bytes:
        return self.content


def _config(folder: Path, kind: str) -> object:
    lay(folder / "conf/local/kbuild.yml", kind)
    (folder / "conf/base").mkdir()
    return read_config(folder)


PLACES: dict[str, tuple[Callable[[Path, str], object], type[KbuildError], tuple[str, ...]]] = {
    "MLmodel": (_model("MLmodel"), InvalidModel, (*NO_FILE, *BARE)),
    "conda.yaml": (_model("conda.yaml"), InvalidModel, (*NO_FILE, *BARE)),
    "conda-names": (
        lambda folder, kind: read_names(lay(folder / "n.yml", kind)),
        ConfigurationError,
        (*NO_FILE, *BARE),
    ),
    "conda_env": (lambda folder, kind: read_conda_env(lay(folder / "e.yml", kind)), RecordingError, (*NO_FILE, *BARE)),
    "advisories": (lambda folder, kind: read_advisories(str(lay(folder / "a.yml", kind))), ConfigurationError, ()),
    "image": (lambda folder, kind: read_example(Image((HOSTILE | BARE)[kind])), InvalidImage, tuple(BARE)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("place", PLACES)
def test_each_place_tells_what_it_cannot_read_in_one_line(tmp_path: Path, place: str) -> None:
    read, expected, others = PLACES[place]
    for kind in (*HOSTILE, *others):
        folder = tmp_path / kind
        folder.mkdir()
        with pytest.raises(expected) as caught:
            read(folder, kind)
        assert len(caught.value.message.splitlines()) == 1 and len(caught.value.message) < 500, kind


@pytest.mark.parametrize("kind", ["deep JSON", "deep YAML", "no day"])
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _config(tmp_path, kind)
    assert len(caught.value.message.splitlines()) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_row_is_broken_between_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    row = f"ok   tracking      sqlite:///{'x' * 30} answers, as it should"
    assert folded(row, io.StringIO(), indent=19) == row
    first, *rest = folded(row, Terminal(), indent=19).split("\n")
    assert first == "ok   tracking"
    assert rest == [f"{'':<19}sqlite:///{'x' * 30}", f"{'':<19}answers, as it should"]


@pytest.mark.parametrize(
    ("text", "first", "lines"),
    [
        (
            "  name it in full: kbuild image models:/churn@champion --tag x; then build it",
            0,
            ["  name it in full:", "  kbuild image models:/churn@champion --tag x;", "  then build it"],
        ),
        (
            "two things would fail\n  1. data: it is not there",
            0,
            ["two things would fail", "  1. data: it is not there"],
        ),
        ("what was said before takes room", 12, ["what was said before takes", "  room"]),
        (
            "a word-with-hyphens and /a/path/with/parts stay",
            0,
            ["a word-with-hyphens and", "  /a/path/with/parts stay"],
        ),
    ],
)
def test_a_broken_line_keeps_commands_and_lines_whole(
    text: str, first: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert folded(text, Terminal(), indent=2, first=first).split("\n") == lines
