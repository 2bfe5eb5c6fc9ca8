"""The dataset that is an artifact of a run, by the path that catalog.yml files use."""

from kbuild.datasets.artifact import MlflowArtifactDataset

__all__ = ["MlflowArtifactDataset"]
