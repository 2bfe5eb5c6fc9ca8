"""Prices of flights."""

__version__ = "0.1"
