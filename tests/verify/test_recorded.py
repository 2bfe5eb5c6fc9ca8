"""What an image's MLmodel says of its example and of the answer that was recorded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kbuild.answers import Tolerance
from kbuild.errors import InvalidImage
from kbuild.progress import Silent
from kbuild.verify import verify_image as verifying
from kbuild.verify.verify_image import read_example, verify_image

EXAMPLE = b'{"inputs": [1]}'


class Running:
    """An image that runs, whose model says this."""

    def __init__(self, mlmodel: bytes | dict[str, Any] | None) -> None:
        text = yaml.safe_dump(mlmodel).encode() if isinstance(mlmodel, dict) else mlmodel
        self.files = {"/opt/model/example.json": EXAMPLE} | ({} if text is None else {"/opt/model/MLmodel": text})
        self.stopped = 0

    def read_file(self, path: str) -> bytes | None:
        return self.files.get(f"/{path.lstrip('/')}")

    def stop(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize(
    ("mlmodel", "example"),
    [
        ({"saved_input_example_info": {"serving_input_path": "example.json"}}, EXAMPLE),
        ({"saved_input_example_info": {"serving_input_path": "gone.json"}}, None),
        ({"saved_input_example_info": {}}, None),
        ({"saved_input_example_info": None}, None),
        ({"flavors": {}}, None),
    ],
)
def test_the_example_is_the_file_that_mlflow_names(mlmodel: dict[str, Any], example: bytes | None) -> None:
    assert read_example(Running(mlmodel)) == example  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mlmodel", "told"),
    [
        (None, "has no model at"),
        (b"a: [", "cannot be read"),
        (b"[]", "it is not a mapping"),
        (b"saved_input_example_info: 7", "it is not a mapping, or holds none where one has to be"),
        (b"metadata: []\n", None),
        (b"metadata: {kbuild: 7}", "it is not a mapping, or holds none where one has to be"),
        (b"metadata: {kbuild: {tolerance: {rtol: -1, atol: 0}}}", "the tolerance in .* cannot be read"),
        (b"metadata: {kbuild: {tolerance: wide}}", "the tolerance in .* cannot be read"),
    ],
)
def test_what_no_mlmodel_is_is_told(mlmodel: bytes | None, told: str | None) -> None:
    running: Any = Running(mlmodel)
    if told is None:
        assert read_example(running) is None
        return
    with pytest.raises(InvalidImage, match=told):
        read_example(running)


@pytest.mark.parametrize(
    ("recorded", "own"),
    [
        ({}, Tolerance()),
        ({"tolerance": {"rtol": 0.25, "atol": 0.5}}, Tolerance(relative=0.25, relative_single=0.25, absolute=0.5)),
        ({"tolerance": "exact"}, Tolerance(relative=0.0, relative_single=0.0, absolute=0.0)),
    ],
)
@pytest.mark.parametrize("prediction", [None, "prediction.json"])
def test_the_image_is_asked_by_what_its_model_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Any], own: Tolerance, prediction: str | None
) -> None:
    info = {"saved_input_example_info": {"serving_input_path": "example.json"}}
    running = Running({**info, "metadata": {"kbuild": {**recorded, "prediction": prediction}}})
    seen: list[Any] = []

    def start(image: Any, **given: Any) -> Running:
        seen.append((image, given["port"], given["cache"], given["run"], given["log"].name))
        return running

    def ready(asked: Running, **given: Any) -> None:
        seen.append((asked is running, given["timeout"], given["option"]))

    def compare(asked: Running, **given: Any) -> str:
        seen.append(given)
        return "the report"

    monkeypatch.setattr(verifying, "start_image", start)
    monkeypatch.setattr(verifying, "wait_until_ready", ready)
    monkeypatch.setattr(verifying, "verify_predictions", compare)
    image, wide = SimpleNamespace(), Tolerance(relative=1.0)
    report: Any = verify_image(
        image, "run", cache=tmp_path, timeout=7.0, progress=Silent(), option="--patience",
        choose=lambda given: wide if given == own else pytest.fail(f"{given}"),
    )  # fmt: skip
    assert report == "the report" and running.stopped == 1
    assert seen == [
        (image, None, tmp_path, "run", "log"),
        (True, 7.0, "--patience"),
        {
            "model_path": "/opt/model", "example": "example.json", "prediction": prediction, "tolerance": wide,
            "own": own, "timeout": 7.0,
        },
    ]  # fmt: skip
