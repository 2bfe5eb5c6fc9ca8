"""From patients and a model to a list of who is seen first."""

from typing import Any

import pandas as pd


def ask(patients: pd.DataFrame, model: Any) -> pd.DataFrame:
    """The model's answer for each patient, in the order of the patients."""
    return model.predict(patients)


def rank(patients: pd.DataFrame, answers: pd.DataFrame, places: int) -> pd.DataFrame:
    """The patients with the highest progression, first the highest; as many as there are places."""
    return patients.join(answers).nlargest(places, "progression")
