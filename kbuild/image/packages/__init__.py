"""A lock's packages as files at their in-image paths."""
