from __future__ import annotations

import json
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator

from kbuild.errors import TriggerFailed
from kbuild.trigger.event import TrainingEvent, parse_event

SCHEMA = json.loads(files("kbuild.trigger").joinpath("event.schema.json").read_text())


def test_the_body_is_what_its_schema_says(event: TrainingEvent) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(json.loads(event.body))
    assert json.loads(event.body).keys() == SCHEMA["properties"].keys()


def test_no_credentials_are_told(event: TrainingEvent) -> None:
    assert b"secret" not in event.body
    assert event.tracking_uri == "https://mlflow.example/x"


def test_it_comes_back_as_it_went_and_with_the_same_id(event: TrainingEvent) -> None:
    again = parse_event(json.loads(event.body), "there")
    assert again == event and again.id == event.id


def test_placeholders_are_filled_in_and_other_braces_stay(event: TrainingEvent) -> None:
    assert event.fill("x/{run_id}:{model_name} {} {a} ${HOME}") == f"x/{'a' * 32}:model {{}} {{a}} ${{HOME}}"


@pytest.mark.parametrize(
    "value", [None, [], {}, {"event": "other", "format": 1}, {"event": "model.logged", "format": 2}]
)
def test_another_thing_is_refused(value: object) -> None:
    with pytest.raises(TriggerFailed, match="there holds no training event"):
        parse_event(value, "there")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(TriggerFailed, match="there: run_id, model_uri missing or no text"):
        parse_event(
            {"event": "model.logged", "format": 1, "model_id": "m", "model_name": "", "tracking_uri": "", "project": ""}
            | {"run_id": 5},
            "there",
        )
