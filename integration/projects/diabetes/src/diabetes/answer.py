"""From numbers to what the clinic reads."""

import pandas as pd


def give_answer(progression: pd.Series, decimals: int, high_risk_above: float) -> pd.DataFrame:
    """For each patient the rounded progression, and whether it is a high risk."""
    return pd.DataFrame(
        {
            "progression": progression.round(decimals),
            "high_risk": progression > high_risk_above,
        }
    )
