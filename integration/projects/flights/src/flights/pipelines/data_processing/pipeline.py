"""How the tables are put together."""

from kedro.pipeline import Node, Pipeline

from .nodes import choose, join


def create_pipeline(**kwargs) -> Pipeline:
    return Pipeline(
        [
            Node(join, ["companies", "reviews", "shuttles"], "journeys", name="join", tags="train"),
            Node(choose, "journeys", "model_input", name="choose", tags="train"),
        ]
    )
