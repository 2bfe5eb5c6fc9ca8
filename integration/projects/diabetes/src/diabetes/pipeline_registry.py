"""The pipelines that ``kedro run`` knows by name."""

from kbuild import pipeline_ml_factory
from kedro.pipeline import Pipeline

from diabetes.pipelines import inference, training


def register_pipelines() -> dict[str, Pipeline]:
    """``training`` carries its inference pipeline with it, so that running it logs the model."""
    predicting = inference.create_pipeline()
    learning = pipeline_ml_factory(training.create_pipeline(), predicting, "patients")
    return {"__default__": learning, "training": learning, "inference": predicting}
