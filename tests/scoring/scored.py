"""A table that the scoring tests' model takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

Score = Callable[..., tuple[int, str, dict[str, Any]]]


def table(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "id": [f"row {number}" for number in range(rows)],
            "a": random.normal(size=rows),
            "b": random.normal(size=rows).astype(np.float32),
            "c": random.integers(0, 9, size=rows),
        }
    )
