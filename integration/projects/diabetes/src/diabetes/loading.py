"""Where the patients come from, and who of them is kept back."""

import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from diabetes.cleaning import FEATURES

TARGET = "progression"
# scikit-learn calls the serum values s1 to s6; these are their names in the study.
STUDY_NAMES = {"s1": "tc", "s2": "ldl", "s3": "hdl", "s4": "tch", "s5": "ltg", "s6": "glu"}


def read_study() -> tuple[pd.DataFrame, pd.DataFrame]:
    """442 patients in their own units, and the progression of each after one year."""
    study = load_diabetes(as_frame=True, scaled=False)
    patients = study.data.rename(columns=STUDY_NAMES)[FEATURES]
    patients["sex"] = patients["sex"].astype("int64")
    return patients, study.target.rename(TARGET).to_frame()


def split(
    features: pd.DataFrame, outcome: pd.DataFrame, test_share: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, pd.Series]:
    """Features to learn from, features to measure with, and the same of the target."""
    return tuple(train_test_split(features, outcome[TARGET], test_size=test_share, random_state=seed))
