"""How a price is learnt and told."""

from kedro.pipeline import Node, Pipeline

from .nodes import fit, predict


def create_pipeline(**kwargs) -> Pipeline:
    return Pipeline(
        [
            Node(fit, ["model_input", "journeys"], "regressor", name="fit", tags="train"),
            Node(
                predict, ["regressor", "model_input", "params:currency_rate"], "prices", name="predict", tags="serve"
            ),
        ]
    )
