"""Sizes as bars: as wide as the terminal is, and readable where there is neither colour nor Unicode."""

from __future__ import annotations

import io
import re
import sys

import click
import pytest

from kbuild.audit.sizes.values import ImageSizes, LayerSize, PackageSize
from kbuild.cli.bars import layer_lines, size_lines


def package(name: str, size: int, kind: str = "python") -> PackageSize:
    return PackageSize(name=name, kind=kind, version="1.0", size=size, files=1)  # type: ignore[arg-type]


def image(*packages: PackageSize) -> ImageSizes:
    layers = [
        LayerSize(digest="sha256:0", name="base", packed=9_000_000, packages=(package("base", 24_600_000, "base"),)),
        LayerSize(digest="sha256:1", name="dependencies", packed=90_000_000, packages=packages),
    ]
    return ImageSizes(layers=tuple(layers))


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_largest_fills_the_line_and_none_is_longer(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    sizes = image(package("scikit-learn", 49_200_000), package("x" * 90, 12_300_000))
    lines = [click.unstyle(line) for line in size_lines(sizes)]
    assert max(map(len, lines)) <= columns
    if columns > 40:
        full = [line for line in lines if line.strip().startswith(("dependencies ", "scikit-learn "))]
        assert len(full) == 2 and all(columns - 2 <= len(line) <= columns for line in full)
        one, half = (line.count("█") for line in lines if line.strip().startswith(("scikit-learn ", "base 1.0 ")))
        assert abs(one / 2 - half) <= 1, "half as large, half as long"


@pytest.mark.parametrize("columns", [40, 65, 66, 67, 109, 110, 111])
def test_figures_stand_below_their_titles(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [click.unstyle(line) for line in size_lines(image(package("numpy", 49_200_000)))]
    for title, below in (("layers", ("base", "dependencies")), ("packages", ("numpy",))):
        (head,) = (line for line in lines if line.startswith(title))
        end = head.index("unpacked") + len("unpacked")
        for name in below:
            # Of packages there is a base, too: the first line below its title.
            row = next(line for line in lines[lines.index(head) :] if line.strip().startswith(name))
            assert re.search(r"\d [kMG]?B$", row[:end]), (head, row)


def test_bars_are_of_ascii_where_nothing_else_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    text = "\n".join(size_lines(image(package("numpy", 49_200_000), package("\x1b[2J" + "é" * 60, 5_000_000))))
    text.encode("latin-1")
    assert "####" in text and "\x1b" not in text.replace("\x1b[34m", "").replace("\x1b[90m", "").replace("\x1b[0m", "")


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "…"), ("latin-1", "~")])
def test_what_is_cut_off_ends_with_a_sign_that_can_be_written(
    encoding: str, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    (line,) = (line for line in size_lines(image(package("x" * 90, 5_000_000))) if "xxx" in line)
    assert re.match(rf"  x+{sign} ", line)


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = "\n".join(size_lines(image(package("numpy", 49_200_000))))
    monkeypatch.setenv("NO_COLOR", "1")
    plain = "\n".join(size_lines(image(package("numpy", 49_200_000))))
    assert "\x1b[" in coloured and "\x1b[" not in plain and "Python package" in plain


def test_what_is_small_is_told_together_unless_all_is_wanted() -> None:
    found = image(*(package(f"p{number:02}", 1_000_000 - number) for number in range(30)))
    some, every = size_lines(found), size_lines(found, every=True)
    assert "and 16 smaller, 16.0 MB together: --all shows them" in some[-1]
    assert len(every) == len(some) + 15 and "smaller" not in every[-1]


def test_layers_that_nobody_opened_are_told_by_their_packed_sizes() -> None:
    lines = layer_lines([LayerSize(digest="sha256:0", name="a", packed=5_000_000, packages=())], unpacked=False)
    assert "unpacked" not in lines[0] and "5.0 MB" in lines[1] and "█" in lines[1]
    assert layer_lines([])[0].startswith("layers")
