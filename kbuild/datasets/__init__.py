"""SIDE WING: Kedro datasets that are MLflow models."""
