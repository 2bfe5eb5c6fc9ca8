"""Kedro's settings: the defaults will do."""
