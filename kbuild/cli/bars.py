"""Sizes as bars, in as many columns as there are."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

import click

from kbuild.audit.sizes.values import WORDS, ImageSizes, Kind, LayerSize, PackageSize, readable
from kbuild.untrusted import plain

_COLOURS: dict[Kind, str] = {
    "python": "blue", "conda": "yellow", "base": "bright_black", "model": "green", "code": "red", "other": "magenta",
}  # fmt: skip
_EIGHTHS = " ▏▎▍▌▋▊▉"
_NARROW, _ROOMY, _LONG, _WIDE = 40, 66, 110, 200
_DIGEST = len("sha256:") + 12
_SHOWN = 15


def size_lines(sizes: ImageSizes, *, every: bool = False) -> list[str]:
    """Layers from the lowest up, then packages from the largest down, the ``every`` one or those that matter."""
    packages = [each for each in sizes.packages if each.size]
    shown = packages if every or len(packages) <= _SHOWN + 1 else packages[:_SHOWN]
    lines = [*layer_lines(sizes.layers), "", *_package_lines(shown, sizes.size)]
    if len(shown) < len(packages):
        rest = sum(each.size for each in packages[len(shown) :])
        lines.append(f"  and {len(packages) - len(shown)} smaller, {readable(rest)} together: --all shows them")
    return lines


def layer_lines(layers: Sequence[LayerSize], *, unpacked: bool = True) -> list[str]:
    """One a layer; by their packed sizes alone where nobody opened them."""
    largest = max((each.size if unpacked else each.packed for each in layers), default=0)
    sizes = [(readable(each.size) if unpacked else "", readable(each.packed)) for each in layers]
    names = [_one_line(each.name) for each in layers]
    wide = min(max([5, *map(len, names)]), max(12, _width() // 3))
    heads = f"{'unpacked':>9}  {'packed':>9}" if unpacked else f"{'packed':>9}"
    # By which a layer is known in a registry; in few columns the bars are worth more.
    digests = [f"  {each.digest[:_DIGEST]:<{_DIGEST}}" if _width() >= _LONG else "" for each in layers]
    head = f"  {'digest':<{_DIGEST}}" if _width() >= _LONG else ""
    lines = [f"{'layers':<{wide + 2}}{head}  {heads}"]
    room = _width() - len(lines[0]) - 2
    for each, name, digest, (size, packed) in zip(layers, names, digests, sizes, strict=True):
        numbers = f"{size:>9}  {packed:>9}" if unpacked else f"{packed:>9}"
        bar = _bar(each.size if unpacked else each.packed, largest, room)
        lines.append(f"  {_cut(name, wide):<{wide}}{digest}  {numbers}  {bar}".rstrip())
    return lines


def _package_lines(packages: Sequence[PackageSize], whole: int) -> list[str]:
    titles = [_one_line(each.title) for each in packages]
    name = min(max([7, *map(len, titles)]), max(14, _width() // 3))
    kinds = [WORDS[each.kind] for each in packages] if _width() >= _ROOMY else [""] * len(packages)
    kind = max(map(len, kinds), default=0)
    of = f"  {'of':<{kind}}" if kind else ""
    lines = [f"{'packages':<{name + 2}}{of}  {'unpacked':>9}  {'share':>6}"]
    room = _width() - len(lines[0]) - 2
    largest = packages[0].size if packages else 0
    for each, title, word in zip(packages, titles, kinds, strict=True):
        share = f"{100 * each.size / whole:.1f} %"
        bar = _coloured(_bar(each.size, largest, room), each.kind)
        told = f"  {word:<{kind}}" if kind else ""
        lines.append(f"  {_cut(title, name):<{name}}{told}  {readable(each.size):>9}  {share:>6}  {bar}".rstrip())
    return lines


def _width() -> int:
    """Of the terminal, or what COLUMNS says; 80 in a pipe."""
    return max(_NARROW, min(shutil.get_terminal_size((80, 24)).columns, _WIDE))


def _bar(size: int, largest: int, room: int) -> str:
    """As long as ``size`` is beside the ``largest``, which takes all the room; nothing where there is hardly any."""
    if room < 3 or not largest:
        return ""
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return "#" * max(1, round(room * size / largest))
    whole, eighths = divmod(max(1, round(8 * room * size / largest)), 8)
    return ("█" * whole + _EIGHTHS[eighths]).rstrip()


def _coloured(text: str, kind: Kind) -> str:
    """Colour only repeats what a column says; click leaves it out of a pipe."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=_COLOURS[kind])


def _one_line(text: str) -> str:
    """What an image says is shown, and does nothing to the terminal."""
    return " ".join(plain(text).split())


def _cut(text: str, room: int) -> str:
    sign = "…" if (sys.stdout.encoding or "").lower().startswith("utf") else "~"
    return text if len(text) <= room else f"{text[: room - 1]}{sign}"
