"""Decides which patients are seen first."""

__version__ = "0.1.0"
