"""Wheels that are built from source distributions."""
