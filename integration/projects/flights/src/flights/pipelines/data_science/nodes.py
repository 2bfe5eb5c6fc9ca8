"""The regression."""

import pandas as pd
from sklearn.linear_model import LinearRegression


def fit(features: pd.DataFrame, journeys: pd.DataFrame) -> LinearRegression:
    return LinearRegression().fit(features, journeys["price"])


def predict(regressor: LinearRegression, features: pd.DataFrame, rate: float) -> pd.DataFrame:
    return pd.DataFrame({"price": regressor.predict(features) * rate})
