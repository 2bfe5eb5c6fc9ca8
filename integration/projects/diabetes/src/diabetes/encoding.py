"""From words and scales to columns a regressor understands."""

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from diabetes.cleaning import NUMBERS

CATEGORIES = ["sex", "weight_class"]


def fit_encoder(classified: pd.DataFrame) -> ColumnTransformer:
    """An encoder that scales the numbers and spreads the categories, as seen in these patients."""
    encoder = ColumnTransformer(
        [
            ("scale", StandardScaler(), NUMBERS),
            ("spread", OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORIES),
        ],
        verbose_feature_names_out=False,
    )
    encoder.set_output(transform="pandas")
    return encoder.fit(classified)


def encode(classified: pd.DataFrame, encoder: ColumnTransformer) -> pd.DataFrame:
    """One row a patient, all columns numbers."""
    return encoder.transform(classified)
