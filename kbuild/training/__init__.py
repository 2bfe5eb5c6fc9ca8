"""The training wing: runs inside Kedro and inside the image."""
