"""Whose the files of an image are, and the picture of it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.audit.sizes.measure import FileSize, ImagePlaces, LayerSizes, layer_name, measure
from kbuild.audit.sizes.treemap import COLOURS, HEIGHT, WIDTH, Box, draw, squarify
from kbuild.audit.sizes.values import ImageSizes

PLACES = ImagePlaces(prefix="opt/env", model="opt/model", runtime="opt/kbuild", base="debian:bookworm")
SITE = "opt/env/lib/python3.11/site-packages"
SVG = "{http://www.w3.org/2000/svg}"


def layer(created_by: str, files: dict[str, Any], packed: int = 1) -> LayerSizes:
    """``files``: a number of bytes, or the content of a metadata file."""
    return LayerSizes(
        digest=f"sha256:{'0' * 64}",
        created_by=created_by,
        packed=packed,
        files=[
            FileSize(path=path, size=each, data=None)
            if isinstance(each, int)
            else FileSize(path=path, size=len(each), data=each.encode())
            for path, each in files.items()
        ],
    )


@pytest.fixture
def sizes() -> ImageSizes:
    meta = json.dumps({"name": "python", "version": "3.11.7", "files": ["bin/python3.11", "lib/python3.11/os.py"]})
    record = "six.py,sha256=x,7\nsix-1.17.0.dist-info/METADATA,,\n../../../bin/six,,\n"
    return measure(
        [
            layer('COPY ["base/", "/"]', {"usr/lib/libc.so.6": 300, "usr/lib/libm.so": 40}, 90),
            layer(
                'COPY ["interpreter/", "/"]',
                {
                    "opt/env/conda-meta/python.json": meta,
                    "opt/env/bin/python3.11": 1000,
                    "opt/env/lib/python3.11/os.py": 50,
                    "opt/env/lib/python3.11/__pycache__/os.cpython-311.pyc": 25,
                    "opt/env/lib/strange": 3,
                },
            ),
            layer(
                'COPY ["package-six/", "/"]',
                {
                    f"{SITE}/six.py": 7,
                    f"{SITE}/__pycache__/six.cpython-311.pyc": 8,
                    "opt/env/bin/six": 9,
                    f"{SITE}/six-1.17.0.dist-info/METADATA": "Name: six\nVersion: 1.17.0\n",
                    f"{SITE}/six-1.17.0.dist-info/RECORD": record,
                    f"{SITE}/six-1.17.0.dist-info/INSTALLER": 2,
                },
            ),
            layer('COPY ["runtime/", "/"]', {"opt/kbuild/kbuild/serving/x.py": 11}),
            layer(
                'COPY ["model/", "/"]',
                {
                    "opt/model/MLmodel": 5,
                    "opt/model/artifacts/regressor.pkl": 600,
                    "opt/model/artifacts/words/a.txt": 1,
                    "opt/model/artifacts/words/b.txt": 1,
                    "opt/model/code/flights/nodes.py": 12,
                    "opt/model/code/flights/__pycache__/nodes.cpython-311.pyc": 13,
                },
            ),
        ],
        PLACES,
    )


def test_each_file_is_counted_once_and_by_whom_it_is(sizes: ImageSizes) -> None:
    found = {(each.kind, each.title): (each.size, each.files) for each in sizes.packages}
    metadata = len("Name: six\nVersion: 1.17.0\n")
    record = len("six.py,sha256=x,7\nsix-1.17.0.dist-info/METADATA,,\n../../../bin/six,,\n")
    meta = sizes.layers[1].size - 1000 - 50 - 25 - 3
    assert found == {
        ("base", "debian:bookworm"): (340, 2),
        ("conda", "python 3.11.7"): (1075 + meta, 4),
        ("other", "environment's other files"): (3, 1),
        ("python", "six 1.17.0"): (7 + 8 + 9 + metadata + record + 2, 6),
        ("code", "kbuild's server"): (11, 1),
        ("model", "model files"): (5, 1),
        ("model", "regressor.pkl"): (600, 1),
        ("model", "words"): (2, 2),
        ("code", "project code"): (25, 2),
    }
    assert [each.name for each in sizes.layers] == ["base", "interpreter", "six", "runtime", "model"]
    assert sizes.size == sum(size for size, _ in found.values()) and sizes.packed == 94
    assert [each.size for each in sizes.packages] == sorted((size for size, _ in found.values()), reverse=True)
    assert sizes.places()["code", "project code", ""] == ["model"]


def test_what_no_record_tells_is_no_reason_to_stop() -> None:
    files = {"opt/env/conda-meta/x.json": "{", f"{SITE}/x-1.dist-info/RECORD": "\n,,\nz", f"{SITE}/x.py": 4}
    (found, *_) = measure([layer("RUN x", files)], PLACES).packages
    assert (found.kind, found.name) == ("other", "environment's other files")
    assert measure([], PLACES).packages == ()


@pytest.mark.parametrize(
    ("instruction", "name"),
    [
        ('COPY ["package-numpy/", "/"]', "numpy"),
        ('COPY --from=kbuild-install ["interpreter/", "/"] # buildkit', "interpreter"),
        ("COPY dependencies/ / # buildkit", "dependencies"),
        ("COPY [", "COPY ["),
        ("RUN  apt-get\ninstall x", "RUN apt-get install x"),
        ("", ""),
    ],
)
def test_a_layer_is_called_by_what_it_copies(instruction: str, name: str) -> None:
    assert layer_name(instruction) == name


def test_boxes_are_those_of_the_article() -> None:
    """Bruls, Huizing, van Wijk, "Squarified Treemaps" (2000), figure 4: the sizes 6, 6, 4, 3, 2, 2, 1 in 6 x 4."""
    boxes = squarify([6, 6, 4, 3, 2, 2, 1], Box(x=0, y=0, width=6, height=4))
    # Two rows of which the first takes the left half, then 4 and 3 side by side on the right.
    expected = [(0, 0, 3, 2), (0, 2, 3, 2), (3, 0, 12 / 7, 7 / 3), (3 + 12 / 7, 0, 9 / 7, 7 / 3)]
    for box, wanted in zip(boxes, expected, strict=False):
        assert (box.x, box.y, box.width, box.height) == pytest.approx(wanted)
    # The rest below these two.
    assert [box.y for box in boxes[4:]] == pytest.approx([7 / 3] * 3)


@given(st.lists(st.integers(1, 10**10), max_size=60))
def test_boxes_fill_their_frame_and_no_two_overlap(sizes: list[int]) -> None:
    frame = Box(x=5, y=7, width=WIDTH, height=HEIGHT)
    ordered = sorted(sizes, reverse=True)
    boxes = squarify(ordered, frame)
    assert len(boxes) == len(sizes)
    for size, box in zip(ordered, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size / sum(sizes) * WIDTH * HEIGHT, rel=1e-6, abs=1e-3)
        assert box.x >= 5 - 1e-6 and box.y >= 7 - 1e-6
        assert box.x + box.width <= 5 + WIDTH + 1e-3 and box.y + box.height <= 7 + HEIGHT + 1e-3
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert across < 1e-3 or down < 1e-3


def test_the_picture_stands_by_itself_and_says_what_it_shows(sizes: ImageSizes) -> None:
    text = draw(sizes, name="<b>m&\x1b", mark="m1")
    root = ET.fromstring(text)  # noqa: S314  our own
    ids = {each.get("id"): each for each in root.iter() if each.get("id")}
    assert root.get("role") == "img" and set((root.get("aria-labelledby") or "").split()) == set(ids)
    assert ids["m1-title"].text == "<b>m&\\x1b by package"
    assert "regressor.pkl 0.6 kB" in (ids["m1-told"].text or "")
    titles = [each.text or "" for each in root.iter(f"{SVG}title")]
    assert any(each.startswith("six 1.17.0, Python package in six: ") for each in titles)
    assert not re.search(r"href|url\(|<style|<script", text)


def test_words_can_be_read_on_each_colour() -> None:
    """WCAG 2.2, 1.4.6: 7 to 1, by its definition of relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in COLOURS.values():
        assert (luminance(colour) + 0.05) / (luminance("#1a1a1a") + 0.05) >= 7


@pytest.mark.parametrize("created_by", ["--x", "--mount=type=cache", "", "COPY", "COPY " + "[" * 100_000 + " x"])
def test_an_instruction_of_any_text_names_its_layer(created_by: str) -> None:
    assert layer_name(created_by) == created_by
