"""The pipelines of a run as one SVG: what is trained, and what is served of it. MLflow shows it in its page of a run.

Rows from top to bottom: data, the nodes that read it, what they make, and so on. SVG: https://www.w3.org/TR/SVG2/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from kbuild.served.calls import is_parameter

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

_LONGEST = 34  # letters
_LETTER, _HEIGHT, _GAP, _ROW, _MARGIN = 7.2, 28, 18, 74, 24
_STYLE = (
    "text{font:12px ui-monospace,monospace;text-anchor:middle;dominant-baseline:central;fill:#1a1a1a}"
    "text.head{font:bold 15px system-ui,sans-serif;text-anchor:start}rect{stroke:#5b6b7b;fill:#fff}"
    "rect.node{fill:#dce9f7;stroke:#2f6db5}rect.request{fill:#fdebc8;stroke:#b57a13}"
    "rect.travels{fill:#d9f0dd;stroke:#2e8b47}rect.parameter{stroke-dasharray:4 3}path{fill:none;stroke:#8796a5}"
)


def draw(pipelines: Mapping[str, Pipeline], *, request: Iterable[str] = (), travels: Iterable[str] = ()) -> str:
    """``request`` are the datasets that a request brings, ``travels`` those that training leaves to inference."""
    marks = dict.fromkeys(map(_plain, travels), "travels") | dict.fromkeys(map(_plain, request), "request")
    parts, top, width = [], float(_MARGIN), 0.0
    for title, pipeline in pipelines.items():
        drawn, wide, high = _draw_one(pipeline, marks)
        parts.append(f'<g transform="translate({_MARGIN} {top:g})"><text class="head" y="8">{escape(title)}</text>')
        parts += [*drawn, "</g>"]
        top += high + 2 * _MARGIN
        width = max(width, wide)
    size = f"{width + 2 * _MARGIN:g} {top:g}"
    across, down = size.split()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{across}" height="{down}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", '<rect width="100%" height="100%" style="stroke:none"/>',
                      *parts, "</svg>\n"])  # fmt: skip


def _draw_one(pipeline: Pipeline, marks: Mapping[str, str]) -> tuple[list[str], float, float]:
    """SVG elements, and the width and height that they take."""
    rows = _arrange(pipeline)
    places, width = {}, 0.0
    for number, row in enumerate(rows):
        x = 0.0
        for key in row:
            wide = min(len(key[1]), _LONGEST) * _LETTER + 20
            places[key] = (x, number * _ROW + 30.0, wide)
            x += wide + _GAP
        width = max(width, x - _GAP)
    # Short rows stand in the middle.
    for row in rows:
        used = sum(places[key][2] + _GAP for key in row) - _GAP
        for key in row:
            x, y, wide = places[key]
            places[key] = (x + (width - used) / 2, y, wide)
    lines = [_join(places[one], places[other]) for one, other in _edges(pipeline)]
    boxes = [_box(key, places[key], marks) for row in rows for key in row]
    return [*lines, *boxes], width, len(rows) * _ROW + 30.0 - (_ROW - _HEIGHT)


_Key = tuple[str, str]  # "node" or "data", and the name


def _edges(pipeline: Pipeline) -> list[tuple[_Key, _Key]]:
    return [
        edge
        for node in pipeline.nodes
        for edge in (
            *(((("data", _plain(name)), ("node", node.name))) for name in node.inputs),
            *(((("node", node.name), ("data", _plain(name)))) for name in node.outputs),
        )
    ]


def _arrange(pipeline: Pipeline) -> list[list[_Key]]:
    """Rows of what is drawn, each below all that it comes from."""
    depth: dict[_Key, int] = {}
    makers: dict[str, Node] = {_plain(name): node for node in pipeline.nodes for name in node.outputs}
    for node in pipeline.nodes:  # in an order in which they can run
        above = [depth["data", _plain(name)] for name in node.inputs if _plain(name) in makers]
        depth["node", node.name] = 1 + max(above, default=0)
        for name in node.outputs:
            depth["data", _plain(name)] = 2 + max(above, default=0)
    for node in pipeline.nodes:
        for name in map(_plain, node.inputs):
            if name not in makers:  # beside the first that reads it
                first = depth["node", node.name] - 1
                depth["data", name] = min(depth.get(("data", name), first), first)
    rows: list[list[_Key]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for key, number in sorted(depth.items()):
        rows[number].append(key)
    # Below what they come from, as far as one pass brings them there.
    sources: dict[_Key, list[_Key]] = {}
    for one, other in _edges(pipeline):
        sources.setdefault(other, []).append(one)
    place: dict[_Key, float] = {}
    for row in rows:
        row.sort(key=lambda key: _middle([place[each] for each in sources.get(key, ()) if each in place]))
        place |= {key: (number + 0.5) / len(row) for number, key in enumerate(row)}
    return rows


def _middle(places: list[float]) -> float:
    return sum(places) / len(places) if places else 0.5


def _plain(name: str) -> str:
    """Of a transcoded dataset the name that both sides share."""
    return name.partition("@")[0]


def _join(one: tuple[float, float, float], other: tuple[float, float, float]) -> str:
    x1, y1 = one[0] + one[2] / 2, one[1] + _HEIGHT
    x2, y2 = other[0] + other[2] / 2, other[1]
    half = (y2 - y1) / 2
    return f'<path d="M{x1:.1f} {y1:g}C{x1:.1f} {y1 + half:g} {x2:.1f} {y2 - half:g} {x2:.1f} {y2:g}"/>'


def _box(key: _Key, place: tuple[float, float, float], marks: Mapping[str, str]) -> str:
    kind, name = key
    x, y, wide = place
    style = "node" if kind == "node" else "parameter" if is_parameter(name) else marks.get(name, "data")
    shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    corner = 6 if kind == "node" else 0
    return (
        f'<g><title>{escape(name)}</title><rect class="{style}" x="{x:.1f}" y="{y:g}" width="{wide:.1f}" '
        f'height="{_HEIGHT}" rx="{corner}"/><text x="{x + wide / 2:.1f}" y="{y + _HEIGHT / 2:g}">{escape(shown)}'
        "</text></g>"
    )
