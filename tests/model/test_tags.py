from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from kbuild.errors import ModelNotFound
from kbuild.model.fetch import MlflowStore
from kbuild.model.store import DirectStore, Written, write_tags
from kbuild.tracking.image_tags import Tag

pytestmark = pytest.mark.filterwarnings("ignore")
TAGS = {Tag.IMAGE_DIGEST: "sha256:1", Tag.VERIFY: "passed"}


@pytest.fixture
def client(migrated: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    (tmp_path / "mlflow.db").write_bytes(migrated)
    # The registry looks a model's folder up at the address that is set, not at the client's.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def register(client: mlflow.MlflowClient, name: str, run_id: str, model_id: str | None) -> None:
    client.create_registered_model(name)
    source = "file:///store/run/artifacts/model" if model_id is None else f"models:/{model_id}"
    # What the registry keeps of it is all that counts here: there are no files.
    client._get_registry_client().store.create_model_version(name, source, run_id)


def test_the_run_and_the_versions_of_that_model_are_tagged(client: mlflow.MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    ids = [client.create_logged_model("0", name=name, source_run_id=run_id).model_id for name in ("a", "b")]
    register(client, "one", run_id, ids[0])
    register(client, "two", run_id, ids[1])
    register(client, "old", run_id, None)
    register(client, "other", client.create_run("0").info.run_id, None)
    store = MlflowStore(tracking_uri=client.tracking_uri)
    for each in (store, DirectStore(tracking_uri=client.tracking_uri)):
        assert write_tags(TAGS, run_id, f"models:/{ids[0]}", each) == Written(versions=("one/1",))
    expected = {"kbuild.image_digest": "sha256:1", "kbuild.verify": "passed"}
    assert client.get_run(run_id).data.tags.items() >= expected.items()
    tagged = {name for name in ("one", "two", "old", "other") if client.get_model_version(name, "1").tags == expected}
    assert tagged == {"one"}


def test_what_cannot_be_tagged_is_a_reason_and_no_error(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    store = MlflowStore(tracking_uri=client.tracking_uri)
    assert write_tags(TAGS, None, None, store) == Written(refused="the model names no run")
    reason = write_tags(TAGS, "f" * 32, None, store).refused
    assert reason is not None and "f" * 32 in reason
    with pytest.raises(ModelNotFound):
        MlflowStore(tracking_uri=f"sqlite:///{tmp_path}/no.db").ping()
