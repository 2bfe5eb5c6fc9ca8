"""The regressor: trained, measured, asked."""

from typing import Any

import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, r2_score


def fit_regressor(features: pd.DataFrame, target: pd.Series, settings: dict[str, Any], seed: int) -> Any:
    """A regressor fitted to these patients; the same seed gives the same regressor."""
    return HistGradientBoostingRegressor(random_state=seed, **settings).fit(features, target)


def predict(features: pd.DataFrame, regressor: Any) -> pd.Series:
    """The progression after one year, a number from about 25 to 350, for each patient."""
    return pd.Series(regressor.predict(features), index=features.index, name="progression")


def measure(predicted: pd.Series, target: pd.Series) -> dict[str, float]:
    """How far the predictions are from what happened."""
    return {
        "mean_absolute_error": round(float(mean_absolute_error(target, predicted)), 3),
        "r2": round(float(r2_score(target, predicted)), 3),
        "patients": float(len(target)),
    }
