"""The table to learn from: 200 rows of four numbers, and what follows from them."""

import numpy as np
import pandas as pd

NAMES = ["age", "weight", "pulse", "dose"]


def make_table() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows and their outcome, the same each time."""
    random = np.random.default_rng(11)
    rows = pd.DataFrame(random.normal(size=(200, len(NAMES))).round(4), columns=NAMES)
    outcome = 2.0 * rows["age"] - 0.5 * rows["dose"] + np.sin(rows["pulse"]) + 3.0
    return rows, outcome.to_frame("outcome")
