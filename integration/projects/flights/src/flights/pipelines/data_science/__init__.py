"""Complete pipeline for data_science."""

from .pipeline import create_pipeline  # NOQA
