"""Registries: images pulled and pushed."""
