"""The drawing of a run's pipelines: all of it is there, nothing lies on anything else, and it is XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kedro.pipeline import Pipeline, node, pipeline

from kbuild.recording.run.picture import draw

SVG = "{http://www.w3.org/2000/svg}"


def f(*_: object, **__: object) -> None:
    """Any node's function."""


TRAINING = Pipeline(
    [
        node(f, "raw", ["x", "y"], name="split"),
        node(f, ["x", "params:alpha"], "scaler", name="fit_scaler"),
        node(f, {"a": "scaler", "b": "y"}, "model@pickle", name="fit"),
        node(f, ["model@text", "<raw> & more"], None, name="report"),
        node(f, None, "clock", name="tick"),
    ]
)
INFERENCE = Pipeline([node(f, ["x", "scaler"], "z", name="scale"), node(f, ["z", "model@pickle"], "answer", name="go")])


def boxes(text: str) -> dict[str, list[tuple[str, float, float, float]]]:
    """By heading: name, left, top and width of each box."""
    groups = ET.fromstring(text).findall(f"{SVG}g")  # noqa: S314  our own
    return {
        str(group[0].text): [
            (str(each[0].text), *(float(each[1].attrib[key]) for key in ("x", "y", "width")))
            for each in group.findall(f"{SVG}g")
        ]
        for group in groups
    }


def test_everything_is_drawn_below_what_it_comes_from() -> None:
    text = draw({"training": TRAINING, "inference": INFERENCE}, request=["x"], travels=["scaler", "model@pickle"])
    found = boxes(text)
    assert list(found) == ["training", "inference"]
    for drawn, whole in zip(found.values(), (TRAINING, INFERENCE), strict=True):
        names = {name for name, *_ in drawn}
        assert names == {each.partition("@")[0] for each in whole.datasets()} | {each.name for each in whole.nodes}
        top = {name: y for name, _, y, _ in drawn}
        for each in whole.nodes:
            assert all(top[name.partition("@")[0]] < top[each.name] for name in each.inputs)
            assert all(top[name.partition("@")[0]] > top[each.name] for name in each.outputs)
        for name, x, y, wide in drawn:
            assert x >= 0
            for other, x2, y2, wide2 in drawn:
                assert name == other or y != y2 or x + wide <= x2 or x2 + wide2 <= x
    assert text.count('class="request"') == 2 and text.count('class="travels"') == 4
    assert "<script" not in text and "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_same_pipeline_is_the_same_picture_and_an_empty_one_is_one() -> None:
    spaced = pipeline(TRAINING, namespace="a_namespace_with_a_name_that_is_longer_than_a_box_may_be")
    assert draw({"pipeline": spaced}) == draw({"pipeline": Pipeline(list(reversed(spaced.nodes)))})
    assert "a_namespace_with_a_name_that_is_lo" in draw({"pipeline": spaced})
    assert boxes(draw({"pipeline": Pipeline([])})) == {"pipeline": []}
