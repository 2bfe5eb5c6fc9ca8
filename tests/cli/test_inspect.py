"""What ``kbuild inspect`` makes of what an image says."""

from __future__ import annotations

import json
import sys

import pytest

from kbuild.cli.inspect import _fitted, _image_lines
from kbuild.image.store.verdicts import Said

SIGNATURE = {
    "inputs": [
        {"name": "engines", "required": True, "type": "long"},
        {"name": "crew", "required": False, "type": "long"},
    ],
    "outputs": [{"name": "price", "required": True, "type": "double"}],
    "params": [
        {"name": "features", "type": "string", "shape": [-1], "default": ["engines", "crew"]},
        {"name": "rate", "type": "double", "shape": None, "default": 1.5},
        {"name": "words", "type": "string", "shape": [-1], "default": ["word"] * 50},
    ],
}


def _lines(label: str) -> list[str]:
    labels = {"io.kbuild.run.id": "b1f3", "io.kbuild.signature": label}
    facts = {"digest": "sha256:1", "config_digest": "sha256:2", "platform": "linux/amd64", "unpacked": None, "size": 1}
    facts |= Said().to_json()
    return [*_image_lines({**facts, "layers": [], "entrypoint": [], "user": "1", "labels": labels, "annotations": {}})]


def test_the_columns_of_a_request_are_listed_and_not_shown_as_json() -> None:
    lines = _lines(json.dumps(SIGNATURE))
    begin = lines.index("inputs")
    assert lines[begin:] == [
        "inputs",
        "  engines: long",
        "  crew: long, may be left out",
        "outputs",
        "  price: double",
        "params",
        '  features: list of string, else ["engines", "crew"]',
        "  rate: double, else 1.5",
        '  words: list of string, else ["word", "word", "word", "word", "word", "word", "word", "wo…',
        "labels",
        "  io.kbuild.run.id=b1f3",
    ]


@pytest.mark.parametrize("label", ["none", "[1]", '{"inputs": 1}', '{"inputs": [1]}', "{", "[" * 9000])
def test_a_label_that_is_no_signature_is_shown_as_it_is(label: str) -> None:
    assert f"  io.kbuild.signature={label}" in _lines(label)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_narrow_terminal_shows_whole_the_one_digest_that_names_the_image(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    lines = [
        f"digest         sha256:{'1' * 64}",
        f"config digest  sha256:{'2' * 64}",
        "labels",
        f"  io.kbuild.lock.digest=sha256:{'3' * 64}",
        f"  io.kbuild.run.id={'4' * 32}",
        f"  kbuild.pushed=registry.example/till@sha256:{'5' * 64}",
        f"pushed to      registry.example/till@sha256:{'6' * 64}",
    ]
    assert _fitted(lines) == "\n".join(lines)  # to a pipe
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = _fitted(lines).splitlines()
    if columns == 200:
        assert shown == lines
    else:
        assert shown == [
            "digest",
            f"  sha256:{'1' * 64}",
            f"config digest  sha256:{'2' * 12}",
            "labels",
            f"  io.kbuild.lock.digest=sha256:{'3' * 12}",
            f"  io.kbuild.run.id={'4' * 32}",
            "  kbuild.pushed",
            f"    registry.example/till@sha256:{'5' * 64}",
            "pushed to",
            f"  registry.example/till@sha256:{'6' * 64}",
        ]
