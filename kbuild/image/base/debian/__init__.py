"""Bases that are assembled from Debian packages."""
