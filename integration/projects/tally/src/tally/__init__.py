"""Learns a mean."""

__version__ = "0.1.0"
