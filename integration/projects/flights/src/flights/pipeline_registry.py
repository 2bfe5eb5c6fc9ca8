"""Project pipelines."""

from kbuild import pipeline_ml_factory
from kedro.pipeline import Pipeline

from flights.pipelines import data_processing, data_science


def register_pipelines() -> dict[str, Pipeline]:
    """The default pipeline logs the model."""
    whole = data_processing.create_pipeline() + data_science.create_pipeline()
    return {"__default__": pipeline_ml_factory(whole.only_nodes_with_tags("train"), whole.only_nodes_with_tags("serve"), "model_input")}
