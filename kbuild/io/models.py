"""The datasets that are MLflow models, by the path that catalog.yml files use."""

from kbuild.datasets.folder_dataset import MlflowModelLocalFileSystemDataset
from kbuild.datasets.models import (
    MlflowModelLoggerDataSet,
    MlflowModelLoggerDataset,
    MlflowModelRegistryDataset,
    MlflowModelTrackingDataset,
)

__all__ = [
    "MlflowModelLocalFileSystemDataset",
    "MlflowModelLoggerDataSet",
    "MlflowModelLoggerDataset",
    "MlflowModelRegistryDataset",
    "MlflowModelTrackingDataset",
]
