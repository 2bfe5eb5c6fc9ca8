"""The serving wing: runs inside the image."""
