"""Parameters that an inference node's annotation wants as an object, of a pipeline that is only bound."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.errors import RecordingError
from kbuild.recording.input.typed import find_typed_parameters

pytest.importorskip("kedro.validation")


@dataclasses.dataclass
class Options:
    scale: float


def predict(x: Any, options: Options, plain: dict[str, float], maybe: Options | None) -> Any:
    return x


def find(options: Any, maybe: Any = None) -> dict[str, Any]:
    catalog = DataCatalog(
        {
            "params:shop.options": MemoryDataset(options),
            "params:plain": MemoryDataset({"a": 1.0}),
            "params:maybe": MemoryDataset(maybe),
        }
    )
    inputs = ["x", "params:shop.options", "params:plain", "params:maybe"]
    return find_typed_parameters(Pipeline([node(predict, inputs, "y", name="predict")]), catalog)


def test_a_mapping_becomes_what_the_node_is_annotated_with() -> None:
    assert find({"scale": 4.0}) == {"params:shop.options": Options(4.0)}
    assert find({"scale": 4.0}, {"scale": 1.0})["params:maybe"] == Options(1.0)
    # Kedro did it already, for a registered pipeline.
    assert find(Options(2.0)) == {}


def test_a_mapping_that_is_no_such_thing_is_told() -> None:
    with pytest.raises(RecordingError, match=r"parameter 'shop.options' is not of type Options, .*'size'"):
        find({"size": 4.0})
