"""A model without an image: its archive, and tables scored by that."""
