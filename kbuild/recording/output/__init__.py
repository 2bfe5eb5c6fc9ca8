"""The answer of the inference pipeline: how it is written, and what of it cannot be."""
