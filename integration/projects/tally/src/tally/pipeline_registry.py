"""The pipelines that ``kedro run`` knows by name."""

from kbuild import pipeline_ml_factory
from kedro.pipeline import Node, Pipeline

from tally.learning import compare, learn, make_rows

# What loading the model takes, which is less than what MLflow finds: its environment is soon built.
ENOUGH = {"pip_requirements": ["mlflow-skinny", "pandas"]}


def register_pipelines() -> dict[str, Pipeline]:
    """Training, which carries its inference pipeline with it."""
    comparing = Pipeline([Node(compare, ["rows", "mean"], "above", name="compare")])
    learning = Pipeline([Node(make_rows, None, "rows", name="make_rows"), Node(learn, "rows", "mean", name="learn")])
    training = pipeline_ml_factory(learning, comparing, "rows", log_model_kwargs=ENOUGH)
    return {"__default__": training, "inference": comparing}
