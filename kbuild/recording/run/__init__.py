"""SIDE WING: what the MLflow run of a Kedro run holds beside its model: parameters, versions, commit, pipeline."""
