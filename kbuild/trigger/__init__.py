"""SIDE WING: what follows a training run. It runs at the end of training, so it imports nothing but F0."""
