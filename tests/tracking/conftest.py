import warnings

with warnings.catch_warnings():
    # MLflow warns about its own dependencies while it is imported.
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc  # noqa: F401
