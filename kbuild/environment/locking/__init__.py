"""A model's lock: found, or made and stored."""
