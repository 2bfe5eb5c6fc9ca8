"""What two models' parameters are compared by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from world import World

from kbuild.model.model_reference import ModelReference
from kbuild.progress import Silent
from kbuild.workflow.audit.difference import _flat, _side, compare_models

OPTIONS = {"test_size": 0.2, "features": ["engines", "crew"], "fit": {"solver": "lbfgs"}}


def test_a_mapping_is_compared_key_by_key_as_a_run_names_them() -> None:
    """A whole mapping on both sides of an arrow hid the one key that differed."""
    assert _flat("params:model_options", json.dumps(OPTIONS)) == {
        "params:model_options.test_size": "0.2",
        "params:model_options.features": '["engines", "crew"]',
        "params:model_options.fit.solver": "lbfgs",
    }


@pytest.mark.parametrize(
    ("text", "shown"), [("0.2", "0.2"), ("{}", "{}"), ('"lbfgs"', "lbfgs"), ("[1,\n 2]", "[1, 2]"), ("{", "{")]
)
def test_what_is_no_mapping_stays_whole(text: str, shown: str) -> None:
    assert _flat("params:k", text) == {"params:k": shown}


def test_a_parameter_that_the_run_has_too_is_told_by_its_name_there(world: World, tmp_path: Path) -> None:
    model = world.store.models[world.model]
    (model / "artifacts/params_fit.json").write_text('{"solver": "lbfgs", "rate": 0.1}')
    world.store.parameters = {"fit.solver": "lbfgs", "seed": "7"}
    side = _side(ModelReference.parse(world.model), tmp_path, world.tools, Silent())
    assert side.parameters == {"fit.solver": "lbfgs", "seed": "7", "params:fit.rate": "0.1"}


def test_metrics_of_two_runs_are_compared(world: World) -> None:
    """The second is asked for after the first: another value each time."""
    read = world.store.read_run
    values = iter([{"rmse": 54.2}, {"rmse": 51.9}])

    def read_run(run_id: str) -> object:
        world.store.metrics = next(values)
        return read(run_id)

    world.store.read_run = read_run  # type: ignore[method-assign, assignment]
    world.store.models["models:/till/4"] = world.store.models[world.model]
    second = ModelReference.parse("models:/till/4")
    told = compare_models(ModelReference.parse(world.model), second, world.tools).to_json()
    assert (told["before"], told["after"]) == (world.model, "models:/till/4")
    (change,) = told["metrics"]
    assert (change["name"], float(change["before"]), float(change["after"])) == ("rmse", 54.2, 51.9)
