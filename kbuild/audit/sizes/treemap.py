"""An image as one SVG: a box for each package, as large as the package is, in a frame for each layer.

Boxes are laid out as Bruls, Huizing and van Wijk say ("Squarified Treemaps", 2000): as near to squares as they get.
Nothing in it loads anything, and no style of it reaches the page it stands in. SVG: https://www.w3.org/TR/SVG2/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from kbuild.audit.sizes.values import WORDS, ImageSizes, Kind, LayerSize, PackageSize, join, readable
from kbuild.progress import how_many
from kbuild.untrusted import plain

WIDTH, HEIGHT = 960, 480
_KEY = 28  # for the colours' meaning, below the boxes
_GAP = 1.5
_LETTER, _LINE = 6.7, 15  # of 12 px text
_THIN = 1e-9  # a side is never nothing, whatever rounding leaves
_LEAST = 0.004  # of the whole; what is smaller is one box with its like
# Dark text keeps a contrast of 7 to 1 on each of them, and they differ in lightness as well as in hue.
COLOURS: dict[Kind, str] = {
    "python": "#bcd6f2",
    "conda": "#f7e3a6",
    "base": "#d9d9de",
    "model": "#bfe5c5",
    "code": "#f6cfb4",
    "other": "#e8d3f0",
}
_INK = "#1a1a1a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle: its upper left corner, width and height."""

    x: float
    y: float
    width: float
    height: float

    def without_edge(self, gap: float) -> Box:
        """Smaller by ``gap`` on each side, as far as there is room."""
        across, down = min(gap, self.width / 4), min(gap, self.height / 4)
        return Box(x=self.x + across, y=self.y + down, width=self.width - 2 * across, height=self.height - 2 * down)


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """A box for each of ``sizes``, which are positive and the largest first, of areas that are to each other as they
    are."""
    total = sum(sizes)
    areas = [size * box.width * box.height / total for size in sizes] if total else []
    placed: list[Box] = []
    while areas:
        side = min(box.width, box.height)
        taken = 1
        while taken < len(areas) and _worst(areas[: taken + 1], side) <= _worst(areas[:taken], side):
            taken += 1
        row, areas = areas[:taken], areas[taken:]
        placed += _row(row, box)
        thick = sum(row) / side
        if box.width >= box.height:
            box = Box(x=box.x + thick, y=box.y, width=max(box.width - thick, _THIN), height=box.height)
        else:
            box = Box(x=box.x, y=box.y + thick, width=box.width, height=max(box.height - thick, _THIN))
    return placed


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of sides in a row along a side of that length."""
    total, squared = sum(row), side * side
    return max(squared * max(row) / total**2, total**2 / (squared * min(row)))


def _row(row: Sequence[float], box: Box) -> Iterator[Box]:
    """Side by side along the shorter side of ``box``, at its beginning."""
    total, along = sum(row), 0.0
    for area in row:
        if box.width >= box.height:
            thick, long = total / box.height, area / total * box.height
            yield Box(x=box.x, y=box.y + along, width=thick, height=long)
        else:
            thick, long = total / box.width, area / total * box.width
            yield Box(x=box.x + along, y=box.y, width=long, height=thick)
        along += long


def draw(sizes: ImageSizes, *, name: str, mark: str = "image") -> str:
    """The SVG, of an image with that name; ``mark`` begins its ids, which are to be the only ones of a page."""
    whole = sizes.size
    layers = sorted((layer for layer in sizes.layers if layer.size), key=lambda layer: -layer.size)
    boxes = squarify([layer.size for layer in layers], Box(x=0, y=0, width=WIDTH, height=HEIGHT))
    parts = [part for layer, box in zip(layers, boxes, strict=True) for part in _layer(layer, box, whole)]
    largest = ", ".join(f"{each.title} {readable(each.size)}" for each in sizes.packages[:5])
    told = (
        f"{readable(whole)} unpacked, {readable(sizes.packed)} packed, in {how_many(len(sizes.layers), 'layer')}. Each"
        f" box is a package, its area its size; a frame is a layer. The largest: {largest}."
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + _KEY}" width="{WIDTH}"'
        f' height="{HEIGHT + _KEY}" role="img" aria-labelledby="{mark}-title {mark}-told"'
        ' font-family="system-ui, sans-serif" font-size="12">'
    )
    lines = [
        head,
        f'<title id="{mark}-title">{escape(name)} by package</title>',
        f'<desc id="{mark}-told">{escape(told)}</desc>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        *parts,
        *_legend(sizes),
        "</svg>\n",
    ]
    return plain("\n".join(lines))


def _layer(layer: LayerSize, box: Box, whole: int) -> Iterator[str]:
    shown = _joined(layer.packages, whole)
    yield f'<g fill="{_INK}"><title>{escape(f"{layer.name}, a layer of {readable(layer.size)}")}</title>'
    yield _rectangle(box.without_edge(_GAP / 2), "#5b6b7b")
    inner = box.without_edge(_GAP * 1.5)
    for each, place in zip(shown, squarify([each.size for each in shown], inner), strict=True):
        yield from _package(each, place.without_edge(_GAP / 3), layer, whole)
    yield "</g>"


def _joined(packages: Sequence[PackageSize], whole: int) -> list[PackageSize]:
    """With one entry of all of a kind that nobody could see."""
    seen = [each for each in packages if each.size >= _LEAST * whole]
    small: dict[Kind, list[PackageSize]] = {}
    for each in packages:
        if 0 < each.size < _LEAST * whole:
            small.setdefault(each.kind, []).append(each)
    for kind, several in small.items():
        size, files = sum(each.size for each in several), sum(each.files for each in several)
        name = f"{len(several)} smaller" if len(several) > 1 else several[0].name
        seen.append(PackageSize(name=name, kind=kind, version="", size=size, files=files))
    return list(join(seen))


def _package(package: PackageSize, box: Box, layer: LayerSize, whole: int) -> Iterator[str]:
    share = f"{100 * package.size / whole:.1f} %"
    title = f"{package.title}, {WORDS[package.kind]} in {layer.name}: {readable(package.size)}, {share}"
    yield f"<g><title>{escape(title)}</title>"
    yield _rectangle(box, COLOURS[package.kind])
    letters = int((box.width - 8) / _LETTER)
    for number, text in enumerate((package.name, readable(package.size))):
        down = box.y + 4 + (number + 0.75) * _LINE
        fits = len(text) <= letters or (number == 0 and letters >= 4)
        if fits and down + 4 <= box.y + box.height:
            words = text if len(text) <= letters else f"{text[: letters - 1]}…"
            yield f'<text x="{box.x + 5:.1f}" y="{down:.1f}">{escape(words)}</text>'
    yield "</g>"


def _rectangle(box: Box, fill: str) -> str:
    return f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" fill="{fill}"/>'


def _legend(sizes: ImageSizes) -> Iterator[str]:
    added: dict[Kind, int] = {}
    for each in sizes.packages:
        added[each.kind] = added.get(each.kind, 0) + each.size
    across = 0.0
    for kind in WORDS:
        if not added.get(kind):
            continue
        text = f"{WORDS[kind]} {readable(added[kind])}"
        place = Box(x=across, y=HEIGHT + 9, width=14, height=14)
        yield _rectangle(place, COLOURS[kind])
        yield f'<text x="{across + 20:.0f}" y="{HEIGHT + 21}" fill="{_INK}">{escape(text)}</text>'
        across += 20 + len(text) * _LETTER + 14
