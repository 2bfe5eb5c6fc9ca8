"""The pipelines that ``kedro run`` knows by name."""

import platform

from kbuild import pipeline_ml_factory
from kedro.pipeline import Pipeline

from reviews import __version__ as PROJECT_VERSION
from reviews.pipelines import etl, learning, user_app


def register_pipelines() -> dict[str, Pipeline]:
    """``etl``, ``training``, ``inference`` and ``user_app``."""
    whole = learning.create_pipeline()
    inference = whole.only_nodes_with_tags("inference")
    training = pipeline_ml_factory(
        training=whole.only_nodes_with_tags("training"),
        inference=inference,
        input_name="instances",
        log_model_kwargs=dict(
            artifact_path="reviews",
            conda_env={
                "python": platform.python_version(),
                "build_dependencies": ["pip"],
                "dependencies": [f"reviews=={PROJECT_VERSION}"],
            },
            signature="auto",
        ),
    )
    loading, asking = etl.create_pipeline(), user_app.create_pipeline()
    return {
        "etl": loading,
        "training": training,
        "inference": inference,
        "user_app": asking,
        "__default__": loading + inference + asking,
    }
