"""The datasets that are MLflow models, by the path that catalog.yml files use."""

from kbuild.training.datasets import (
    MlflowModelLoggerDataSet,
    MlflowModelLoggerDataset,
    MlflowModelRegistryDataset,
    MlflowModelTrackingDataset,
)
from kbuild.training.folder_dataset import MlflowModelLocalFileSystemDataset

__all__ = [
    "MlflowModelLocalFileSystemDataset",
    "MlflowModelLoggerDataSet",
    "MlflowModelLoggerDataset",
    "MlflowModelRegistryDataset",
    "MlflowModelTrackingDataset",
]
