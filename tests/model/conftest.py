import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # MLflow warns about its own dependencies while it is imported.
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc


@pytest.fixture
def client(migrated: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """Of a store of the test's own, which MLflow's variable names, in the current folder."""
    (tmp_path / "mlflow.db").write_bytes(migrated)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(uri)
