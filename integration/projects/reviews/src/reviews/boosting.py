"""What xgboost learns from the numbers, and what it says of others."""

from typing import Any

import numpy as np
import xgboost as xgb
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder


def split(features: np.ndarray, labels: np.ndarray, test_size: float, seed: int) -> list[np.ndarray]:
    """Rows to learn from, and rows that say when to stop."""
    return train_test_split(features, labels, test_size=test_size, random_state=seed)


def train(
    x_train: np.ndarray,
    x_test: np.ndarray,
    y_train: np.ndarray,
    y_test: np.ndarray,
    settings: dict[str, Any],
    rounds: int,
    patience: int,
) -> tuple[xgb.Booster, dict[str, list[dict[str, float]]]]:
    """The model, and what was measured in each round, as kedro-mlflow's metric datasets take it."""
    learned, held = xgb.DMatrix(x_train, label=y_train), xgb.DMatrix(x_test, label=y_test)
    history: dict[str, dict[str, list[float]]] = {}
    settings["nthread"] = 1
    model = xgb.train(
        params=settings,
        dtrain=learned,
        num_boost_round=rounds,
        evals=[(learned, "train"), (held, "eval")],
        early_stopping_rounds=patience,
        evals_result=history,
        verbose_eval=False,
    )
    return model, {
        f"{part}_{name}": [{"step": step, "value": value} for step, value in enumerate(values)]
        for part, each in history.items()
        for name, values in each.items()
    }


def measure(model: xgb.Booster, x: np.ndarray, y: np.ndarray) -> float:
    """The share of right answers."""
    return float(np.mean((model.predict(xgb.DMatrix(x)) > 0.5) == y))


def plot_importance(model: xgb.Booster) -> Any:
    """The words that decide, as a picture."""
    axes = xgb.plot_importance(model, max_num_features=20)
    axes.figure.tight_layout()
    return axes.figure


def predict(model: xgb.Booster, data: np.ndarray) -> np.ndarray:
    """0 or 1 for each row."""
    return (model.predict(xgb.DMatrix(data)) > 0.5).astype(int)


def decode(encoder: LabelEncoder, data: np.ndarray) -> np.ndarray:
    """The labels that people gave."""
    return encoder.inverse_transform(data)
