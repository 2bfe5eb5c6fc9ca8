"""Complete pipeline for data_processing."""

from .pipeline import create_pipeline  # NOQA
