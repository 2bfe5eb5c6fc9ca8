"""From rows to their mean, and from other rows to how far they are from it."""

import pandas as pd


def make_rows() -> pd.DataFrame:
    """What is learned from."""
    return pd.DataFrame({"height": [1.5, 2.0, 4.0]})


def learn(rows: pd.DataFrame) -> float:
    """The mean."""
    return float(rows["height"].mean())


def compare(rows: pd.DataFrame, mean: float) -> pd.DataFrame:
    """Each row's distance from the mean."""
    return (rows[["height"]] - mean).rename(columns={"height": "above"})
