"""A parent run whose children logged models, in MLflow's own store; only their files are left out."""

from __future__ import annotations

from pathlib import Path

import click
import mlflow
import pytest

from kbuild.cli import app, image
from kbuild.cli.image import Measure, parse_best
from kbuild.errors import InvalidModel, InvalidReference, ModelNotFound, RunWithoutModel, TrackingUnavailable
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import DirectStore

pytestmark = pytest.mark.filterwarnings("ignore")
NAN, INFINITE = float("nan"), float("inf")


class Sweep:
    """A parent run, and children with the names and metrics that a test gives them."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self.client = client
        self.parent = client.create_run("0", run_name="sweep").info.run_id
        self.names: dict[str, str] = {}

    def add(
        self, name: str, *, parent: str | None = None, models: int = 1, status: str = "FINISHED", **metrics: float
    ) -> str:
        tags = {"mlflow.parentRunId": parent or self.parent}
        run_id = str(self.client.create_run("0", run_name=name, tags=tags).info.run_id)
        for metric, value in metrics.items():
            self.client.log_metric(run_id, metric, value)
        for number in range(models):
            model = self.client.create_logged_model("0", name=f"model{number or ''}", source_run_id=run_id)
            self.client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model_id=model.model_id, step=0)])
            self.client.finalize_logged_model(model.model_id, "READY")
        self.client.set_terminated(run_id, status)
        self.names[run_id] = name
        return run_id

    def best(self, metric: str, *, lowest: bool = False) -> tuple[str, float, int, tuple[str, ...]]:
        store = DirectStore(tracking_uri=self.client.tracking_uri)
        best = store.best_child(ModelReference.parse(self.parent), metric, lowest=lowest)
        assert self.names[best.run_id] == best.name
        return best.name, best.value, best.compared, best.left_out


@pytest.fixture
def sweep(client: mlflow.MlflowClient) -> Sweep:
    return Sweep(client)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MlflowStore, DirectStore])
def test_the_children_with_models_are_named_with_what_to_type(
    sweep: Sweep, tmp_path: Path, kind: type[MlflowStore | DirectStore]
) -> None:
    first, second = sweep.add("one"), sweep.add("two")
    failed = sweep.add("failed", models=0)
    gone = sweep.add("gone")
    sweep.client.delete_run(gone)
    store = kind(tracking_uri=sweep.client.tracking_uri)
    with pytest.raises(RunWithoutModel) as caught:
        store.fetch(ModelReference.parse(sweep.parent), tmp_path / "into")
    assert caught.value.message == (
        f"run {sweep.parent} logged no model, but 2 of its child runs have one: {first} (one), {second} (two)"
    )
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"kbuild image {first}, or kbuild image {sweep.parent} --best METRIC")
    assert failed not in caught.value.message and gone not in caught.value.message


def test_a_run_without_children_is_told_of_as_before(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("failed", models=0)
    with pytest.raises(RunWithoutModel, match=r"logged no model$"):
        MlflowStore(tracking_uri=sweep.client.tracking_uri).fetch(ModelReference.parse(sweep.parent), tmp_path / "into")


@pytest.mark.slow
def test_children_of_children_are_found(sweep: Sweep) -> None:
    fold = sweep.add("fold", models=0, accuracy=0.99)
    sweep.add("deep", parent=fold, accuracy=0.5)
    sweep.add("shallow", accuracy=0.25)
    assert sweep.best("accuracy") == ("deep", 0.5, 2, ("1 without a model",))


@pytest.mark.slow
def test_the_best_is_the_highest_or_the_lowest_of_what_can_be_compared(sweep: Sweep) -> None:
    sweep.add("a", rmse=3.0, accuracy=0.5)
    sweep.add("b", rmse=1.0, accuracy=0.25)
    sweep.add("same", rmse=1.0, accuracy=0.75)
    sweep.add("nan", rmse=NAN, accuracy=NAN)
    sweep.add("infinite", rmse=-INFINITE, accuracy=INFINITE)
    sweep.add("unmeasured")
    sweep.add("killed", rmse=0.0, accuracy=1.0, status="KILLED")
    sweep.add("without", rmse=0.0, accuracy=1.0, models=0)
    left_out = "1 not finished, 1 without {}, 2 whose {} is not a number, 1 without a model"
    assert sweep.best("accuracy") == ("same", 0.75, 3, tuple(left_out.replace("{}", "accuracy").split(", ")))
    assert sweep.best("rmse", lowest=True) == ("b", 1.0, 3, tuple(left_out.replace("{}", "rmse").split(", ")))


@pytest.mark.slow
def test_a_metric_that_no_child_has_is_told_with_those_they_have(sweep: Sweep) -> None:
    with pytest.raises(RunWithoutModel, match="has no child runs"):
        sweep.best("rmse")
    sweep.add("a", mae=1.0, r2=0.5)
    with pytest.raises(ModelNotFound, match="has the metric 'rmse'") as caught:
        sweep.best("rmse")
    assert caught.value.hint == "they have: mae, r2"
    sweep.add("b", rmse=NAN)
    with pytest.raises(RunWithoutModel, match=r"none of the 2 child runs .* 1 whose rmse is not a number"):
        sweep.best("rmse")


def test_what_was_taken_is_said(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.add("slow", rmse=2.0)
    best = sweep.add("quick", rmse=0.125)
    # There are no files, which MLflow 3.1 tells as an error of the store.
    with pytest.raises((InvalidModel, TrackingUnavailable)) as caught:
        image.command.main([sweep.parent, "--best", "rmse:min"], standalone_mode=False)
    app.report(caught.value)
    err = " ".join(capsys.readouterr().err.split())
    assert f"taking run {best[:12]} (quick): rmse 0.125, the lowest of 2" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy", Measure(metric="accuracy", lowest=False)),
        ("rmse:min", Measure(metric="rmse", lowest=True)),
        ("val:rmse:min", Measure(metric="val:rmse", lowest=True)),
        ("val:rmse", Measure(metric="val:rmse", lowest=False)),
        ("f1:max", Measure(metric="f1", lowest=False)),
    ],
)
def test_directions_are_read(text: str, expected: Measure) -> None:
    assert parse_best(text) == expected


@pytest.mark.parametrize(
    "argv", [["models:/churn/1", "--best", "f1"], ["--all-registered", "--best", "f1"], ["f" * 32, "--best", ":min"]]
)
def test_the_best_of_nothing_is_refused(argv: list[str]) -> None:
    with pytest.raises((click.UsageError, InvalidReference)):
        image.command.main(argv, standalone_mode=False)
