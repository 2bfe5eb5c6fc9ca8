"""SIDE WING: from a training run to a checked, logged model."""
