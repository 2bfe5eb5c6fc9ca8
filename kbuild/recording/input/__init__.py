"""What a request is to the inference pipeline: described, carried by MLflow, and seen to arrive."""
