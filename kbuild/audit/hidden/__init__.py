"""Code in files of a model that do not look like code."""
