"""The pipelines that ``kedro run`` knows by name."""

from kbuild import pipeline_ml_factory
from kedro.pipeline import Node, Pipeline

from trained.learning import fit, predict
from trained.table import make_table


def register_pipelines() -> dict[str, Pipeline]:
    """Training, which carries its inference pipeline with it."""
    predicting = Pipeline([Node(predict, ["model", "rows"], "predictions", name="predict")])
    making = Node(make_table, None, ["rows", "outcome"], name="make_table")
    training = Pipeline([making, Node(fit, ["rows", "outcome"], "model", name="fit")])
    return {"__default__": pipeline_ml_factory(training, predicting, "rows"), "inference": predicting}
