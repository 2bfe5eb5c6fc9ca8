"""From what a clinic sends to a table that can be encoded."""

import pandas as pd

# Six laboratory values, measured in blood.
SERUM = ["tc", "ldl", "hdl", "tch", "ltg", "glu"]
NUMBERS = ["age", "bmi", "bp", *SERUM]
FEATURES = ["age", "sex", "bmi", "bp", *SERUM]

# Values outside are typing errors, not patients.
LIMITS = {"age": (0.0, 120.0), "bmi": (10.0, 80.0), "bp": (30.0, 250.0)}
SEXES = {1: "female", 2: "male"}
BMI_EDGES = [0.0, 18.5, 25.0, 30.0, float("inf")]
BMI_CLASSES = ["underweight", "normal", "overweight", "obese"]


def clean(patients: pd.DataFrame) -> pd.DataFrame:
    """The patients with numbers as floats inside their limits and the sex in words; the index is kept."""
    table = patients[FEATURES].copy()
    table[NUMBERS] = table[NUMBERS].astype("float64")
    for column, (lowest, highest) in LIMITS.items():
        table[column] = table[column].clip(lowest, highest)
    table["sex"] = table["sex"].map(SEXES).fillna("unknown")
    return table


def classify(cleaned: pd.DataFrame) -> pd.DataFrame:
    """The cleaned patients with one column more: the weight class of the WHO, from the body mass index."""
    classes = pd.cut(cleaned["bmi"], BMI_EDGES, labels=BMI_CLASSES, right=False)
    return cleaned.assign(weight_class=classes.astype("object"))
