"""The training pipeline."""

from kedro.pipeline import Node, Pipeline

from diabetes.cleaning import classify, clean
from diabetes.encoding import encode, fit_encoder
from diabetes.loading import read_study, split
from diabetes.scoring import fit_regressor, measure, predict


def create_pipeline() -> Pipeline:
    """From the study to an encoder, a regressor and its metrics."""
    return Pipeline(
        [
            Node(read_study, None, ["patients", "outcome"], name="read_study", tags="data"),
            Node(clean, "patients", "training_cleaned", name="clean_study", tags="data"),
            Node(classify, "training_cleaned", "training_classified", name="classify_study", tags="data"),
            Node(fit_encoder, "training_classified", "encoder", name="fit_encoder", tags="learn"),
            Node(encode, ["training_classified", "encoder"], "training_features", name="encode_study", tags="learn"),
            Node(
                split,
                ["training_features", "outcome", "params:test_share", "params:seed"],
                ["learn_features", "test_features", "learn_target", "test_target"],
                name="split_study",
                tags="learn",
            ),
            Node(
                fit_regressor,
                ["learn_features", "learn_target", "params:regressor", "params:seed"],
                "regressor",
                name="fit_regressor",
                tags="learn",
            ),
            Node(predict, ["test_features", "regressor"], "test_progression", name="predict_study", tags="measure"),
            Node(measure, ["test_progression", "test_target"], "metrics", name="measure", tags="measure"),
        ]
    )
