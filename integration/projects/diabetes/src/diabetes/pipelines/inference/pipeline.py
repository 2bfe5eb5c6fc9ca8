"""The inference pipeline: what is served."""

from kedro.pipeline import Node, Pipeline

from diabetes.answer import give_answer
from diabetes.cleaning import classify, clean
from diabetes.encoding import encode
from diabetes.scoring import predict


def create_pipeline() -> Pipeline:
    """From new patients to their answers, with the encoder and the regressor that training made."""
    return Pipeline(
        [
            Node(clean, "patients", "cleaned", name="clean"),
            Node(classify, "cleaned", "classified", name="classify"),
            Node(encode, ["classified", "encoder"], "features", name="encode"),
            Node(predict, ["features", "regressor"], "progression", name="predict"),
            Node(
                give_answer,
                ["progression", "params:decimals", "params:high_risk_above"],
                "predictions",
                name="give_answer",
            ),
        ]
    )
