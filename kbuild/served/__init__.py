"""SHIPS: the inference pipeline as it is served; imports only what ships."""
