"""Answers for new patients."""

from .pipeline import create_pipeline

__all__ = ["create_pipeline"]
