import pandas as pd


def compare_prices(preprocessed_shuttles: pd.DataFrame) -> pd.DataFrame:
    return preprocessed_shuttles.groupby("company_id", as_index=False)["price"].mean()
