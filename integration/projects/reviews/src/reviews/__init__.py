"""Tells praise from blame in reviews of films."""

__version__ = "0.1"
