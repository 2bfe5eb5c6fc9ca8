from kedro.pipeline import Node, Pipeline

from .nodes import compare_prices


def create_pipeline(**kwargs) -> Pipeline:
    return Pipeline([Node(compare_prices, "preprocessed_shuttles", "prices_by_company", name="compare_prices_node")])
