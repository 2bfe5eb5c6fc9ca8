"""Predicts how far diabetes will have progressed after a year."""

__version__ = "0.1.0"
