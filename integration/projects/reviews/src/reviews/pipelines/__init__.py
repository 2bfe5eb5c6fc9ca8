"""Etl, learning and the application."""
