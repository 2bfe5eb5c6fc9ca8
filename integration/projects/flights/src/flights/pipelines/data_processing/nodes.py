"""From raw tables to one."""

import pandas as pd


def join(companies: pd.DataFrame, reviews: pd.DataFrame, shuttles: pd.DataFrame) -> pd.DataFrame:
    """A row a shuttle, with its company and its reviews."""
    return shuttles.merge(reviews, on="shuttle_id").merge(companies, on="company_id")


def choose(journeys: pd.DataFrame) -> pd.DataFrame:
    """The columns that a price is told from."""
    return journeys[sorted(name for name in journeys if name.startswith("x"))]
