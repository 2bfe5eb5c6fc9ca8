"""An application that asks the model that a run logged, and knows nothing of how it answers."""

from typing import Any

import pandas as pd
from kedro.pipeline import Pipeline, node


def ask(model: Any, data: pd.DataFrame) -> pd.DataFrame:
    """The model's answer beside each text."""
    return data.assign(answer=list(model.predict(data)))


def create_pipeline() -> Pipeline:
    """One node: what is asked is a dataset."""
    return Pipeline([node(ask, {"model": "pipeline_inference_model", "data": "instances"}, "answers", tags="user_app")])
