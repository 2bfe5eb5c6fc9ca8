"""The datasets that are metrics of a run, by the path that catalog.yml files use."""

from kbuild.datasets.metrics import MlflowMetricDataset, MlflowMetricHistoryDataset, MlflowMetricsHistoryDataset

__all__ = ["MlflowMetricDataset", "MlflowMetricHistoryDataset", "MlflowMetricsHistoryDataset"]
