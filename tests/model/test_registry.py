"""Registered models as people name and copy them; MLflow's own client and store tell what there is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.utils.validation import _validate_model_name

from kbuild.environment.locking.wanted import LockRequest
from kbuild.errors import ModelNotFound, PackageNotFound, TrackingRefused, TrackingUnavailable, UnexpectedError
from kbuild.model import registry as registries
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.registry import MlflowRegistry
from kbuild.model.store import DirectStore
from kbuild.platform import host_platform
from kbuild.process import run
from kbuild.progress import Progress, Silent
from kbuild.tracking.description import NOTE
from kbuild.tracking.mlflow_client import find_versions
from kbuild.tracking.registry import is_name, is_of_model
from kbuild.workflow import Delivery, ImageRequest, Tools, build, build_many

pytestmark = pytest.mark.filterwarnings("ignore")
TAGS = {"kbuild.image": "b"}
ODD = ("o'brien", "what?", "a@b", "50%", "100%25", 'say "hi"', "both ' and \"", "a  b", "модель", "back\\slash", "a#b",
       "`x`", "under_score", "a;b", "x' OR name != 'y")  # fmt: skip


def takes(name: str) -> bool:
    try:
        _validate_model_name(name)
    except MlflowException:
        return False
    return True


TAKES_PATHS = takes("..a")


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str], params=None):
        return model_input


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, migrated: bytes) -> tuple[Path, str, list[str]]:
    """A database with a run of two models, both there as files."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db").write_bytes(migrated)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("e", (folder / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment) as run:
        ids = [
            str(mlflow.pyfunc.log_model(name=name, python_model=Echo(), pip_requirements=["mlflow"]).model_id)
            for name in "ab"
        ]
    mlflow.set_tracking_uri(None)
    return folder / "mlflow.db", run.info.run_id, ids


@pytest.fixture
def client(filled: tuple[Path, str, list[str]], tmp_path: Path) -> Iterator[mlflow.MlflowClient]:
    shutil.copyfile(filled[0], tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)  # MLflow's registry asks this one for logged models
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)


def _tagged(client: mlflow.MlflowClient) -> set[str]:
    return {
        f"{version.name}/{version.version}"
        for version in client.search_model_versions()
        if version.tags.get("kbuild.image") == "b"
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MlflowStore, DirectStore])
def test_versions_of_exactly_this_model_are_tagged_through_copies(
    client: mlflow.MlflowClient, filled: tuple[Path, str, list[str]], kind: type[MlflowStore | DirectStore]
) -> None:
    _, run_id, (a, b) = filled
    for name, model_id in (("dev", a), ("other", b)):
        mlflow.register_model(f"models:/{model_id}", name)
    client.copy_model_version("models:/dev/1", "prod")
    client.copy_model_version("models:/prod/1", "o'brien")
    client.copy_model_version("models:/o'brien/1", "far")
    client.copy_model_version("models:/other/1", "prod")
    store = kind(tracking_uri=client.tracking_uri)
    store.set_tags(run_id, TAGS, model_uri=f"models:/{b}")
    assert _tagged(client) == {"other/1", "prod/2"}
    store.set_tags(run_id, TAGS, model_uri=f"models:/{a}")
    assert _tagged(client) == {"other/1", "prod/2", "dev/1", "prod/1", "o'brien/1", "far/1"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MlflowStore, DirectStore])
def test_run_model_and_versions_describe_the_image_around_what_users_wrote(
    client: mlflow.MlflowClient,
    filled: tuple[Path, str, list[str]],
    kind: type[MlflowStore | DirectStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, run_id, (a, b) = filled
    client.set_tag(run_id, NOTE, "Mine.")

    def told() -> list[str | None]:
        versions = [each.description for each in client.search_model_versions()]
        models = [client.get_logged_model(each).tags.get(NOTE) for each in (a, b)]
        return [client.get_run(run_id).data.tags[NOTE], *models, *versions]

    def tell(size: str) -> None:
        tags = {"kbuild.image": "s@sha256:1", "kbuild.image_digest": "sha256:1", "kbuild.image_size": size}
        kind(tracking_uri=client.tracking_uri).set_tags(run_id, tags, model_uri=f"models:/{a}")

    if kind is DirectStore:
        # Without registered versions MLflow need not be imported for it.
        with monkeypatch.context() as patch:
            patch.setattr(DirectStore, "_mlflow", None)
            tell("1 MB")
    else:
        tell("1 MB")
    mlflow.register_model(f"models:/{a}", "dev")
    client.update_model_version("dev", "1", "Of dev.")
    tell("1 MB")
    run, model, other, version = told()
    assert str(run).startswith("Mine.\n\nServed by") and str(version).startswith("Of dev.\n\nServed by")
    assert str(model).startswith("Served by") and other is None
    before = told()
    tell("2 MB")
    assert told() == [None if each is None else each.replace(", 1 MB. ", ", 2 MB. ") for each in before]
    assert told() != before


@pytest.mark.parametrize("kind", [MlflowStore, DirectStore])
def test_versions_of_a_deleted_run_are_tagged(
    client: mlflow.MlflowClient, filled: tuple[Path, str, list[str]], kind: type[MlflowStore | DirectStore]
) -> None:
    _, run_id, (a, _) = filled
    mlflow.register_model(f"models:/{a}", "dev")
    client.delete_run(run_id)
    kind(tracking_uri=client.tracking_uri).set_tags(run_id, TAGS, model_uri=f"models:/{a}")
    assert _tagged(client) == {"dev/1"}


@pytest.mark.slow
def test_odd_names_are_found_and_read_and_prompts_are_no_models(
    client: mlflow.MlflowClient, filled: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    for name in ODD:
        mlflow.register_model(f"models:/{filled[2][0]}", name)
        client.set_registered_model_alias(name, "prod", "1")
    mlflow.genai.register_prompt(name="greeting", template="Hello {{name}}")
    stores = (MlflowStore(tracking_uri=client.tracking_uri), DirectStore(tracking_uri=client.tracking_uri))
    assert sorted(stores[1].registered()) == sorted(f"models:/{name}/1" for name in ODD)
    for name in ODD:
        assert [version.name for version in find_versions(client, name)] == [name]
        for store in stores:
            for text in (f"models:/{name}/1", f"models:/{name}@prod"):
                reference = ModelReference.parse(text)
                assert store.fetch(reference, tmp_path / "into").facts.model_id == filled[2][0], text
                assert store.pin(reference).name == name


@given(st.text(max_size=12) | st.text(alphabet=".a/:' ", max_size=6))
@example("..a")
@example("a/../b")
def test_names_that_mlflow_takes_are_known(name: str) -> None:
    if not takes(name):
        assert not is_name(name)
    else:
        # The oldest take names that lead out of a folder; no later server does, and kbuild never.
        if TAKES_PATHS and not is_name(name):
            return
        assert is_name(name)
        # Whatever MLflow registers can be said.
        if name == name.strip():
            assert ModelReference.parse(f"models:/{name}/3").name == name
            assert ModelReference.parse(f"models:/{name}@prod").name == name


def test_a_folder_of_mlflow_2_is_of_its_model_alone() -> None:
    run = "f" * 32

    def never(name: str, version: str) -> str:
        raise AssertionError

    for source, expected in (
        (f"s3://bucket/1/{run}/artifacts/b", True),
        (f"runs:/{run}/b", True),
        (f"s3://bucket/1/{run}/artifacts/a", False),
        (f"s3://bucket/1/{run}/artifacts/a/b", False),
        ("models:/m-" + "0" * 32, False),
    ):
        assert is_of_model(f"runs:/{run}/b", "n", "1", source, never) is expected, source


@pytest.mark.slow
def test_many_registered_models_are_asked_for_together(
    client: mlflow.MlflowClient, filled: tuple[Path, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = client._get_registry_client().store
    for number in range(30):
        registry.create_registered_model(f"n{number}")
        for _ in range(12 if number == 3 else 2):
            registry.create_model_version(f"n{number}", f"models:/{filled[2][0]}", filled[1])
    client.set_registered_model_alias("n3", "prod", "2")
    for number in range(5):
        registry.create_registered_model(f"empty{number}")
    search = mlflow.MlflowClient.search_model_versions
    asked: list[str] = []

    def count(self: mlflow.MlflowClient, filter_string: str, **options: Any) -> Any:
        asked.append(filter_string)
        return search(self, filter_string, **{**options, "max_results": 25})

    monkeypatch.setattr(mlflow.MlflowClient, "search_model_versions", count)
    found = DirectStore(tracking_uri=client.tracking_uri).registered()
    assert set(found) == {f"models:/n{each}/{12 if each == 3 else 2}" for each in range(30)} | {"models:/n3/2"}
    # Not for those without versions either.
    assert not [text for text in asked if text] and len(asked) <= 4


@pytest.mark.slow
def test_one_model_that_cannot_be_read_stops_no_other(
    client: mlflow.MlflowClient, filled: tuple[Path, str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("alone", "forbidden", "gone", "other"):
        mlflow.register_model(f"models:/{filled[2][0]}", name)
    registry = client._get_registry_client().store
    registry.create_registered_model("folder")
    registry.create_model_version("folder", f"file://{tmp_path}/none", filled[1])
    registry.create_registered_model("scheme")
    registry.create_model_version("scheme", "nowhere:/x", filled[1])
    search = mlflow.MlflowClient.search_model_versions

    def refuse(self: mlflow.MlflowClient, filter_string: str, **options: Any) -> Any:
        if not filter_string or "forbidden" in filter_string:  # as servers that tell nothing of any for one
            raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)
        return search(self, filter_string, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "search_model_versions", refuse)
    store = DirectStore(tracking_uri=client.tracking_uri)
    found = sorted(store.registered())
    assert found == [
        "models:/alone/1", "models:/folder/1", "models:/forbidden@latest", "models:/gone/1", "models:/other/1",
        "models:/scheme/1",
    ]  # fmt: skip
    fleet = {str(each): each for each in store.fleet()}
    assert sorted(fleet) == found
    assert fleet["models:/folder/1"].run_id == client.get_model_version("folder", "1").run_id
    assert fleet["models:/forbidden@latest"].run_id is None
    client.delete_registered_model("gone")

    @contextmanager
    def silent(phase: str) -> Iterator[Progress]:
        yield Silent()

    def lock(bundle: ModelBundle, *arguments: Any, **options: Any) -> Any:
        raise PackageNotFound(f"locking {bundle.facts.model_id}")  # so far come those that can be read

    monkeypatch.setattr(build, "lock_environment", lock)
    monkeypatch.setattr(
        mlflow.MlflowClient, "get_model_version_by_alias",
        lambda self, name, alias: refuse(self, name),
    )  # fmt: skip
    watcher: Any = type("Watcher", (), {"begin": lambda self, model: silent, "end": lambda self, outcome: None})()
    tools = Tools(store=store, run=run, cache=tmp_path / "cache", phases=silent)
    requests = [ImageRequest(model=text, lock=LockRequest(platforms=(host_platform(),))) for text in found]
    outcomes = {each.model: each.error for each in build_many(requests, Delivery(), tools, watcher=watcher, jobs=2)}
    codes = {model: None if error is None else error.exit_code for model, error in outcomes.items()}
    assert codes["models:/alone/1"] == codes["models:/other/1"] == PackageNotFound.exit_code
    assert codes["models:/gone/1"] == ModelNotFound.exit_code
    assert codes["models:/forbidden@latest"] == TrackingRefused.exit_code
    for name in ("folder", "scheme"):
        error = outcomes[f"models:/{name}/1"]
        assert error is not None and not isinstance(error, UnexpectedError), error


@pytest.mark.slow
def test_a_registry_tells_every_version_with_its_aliases_and_takes_tags(client: mlflow.MlflowClient) -> None:
    for name, versions in (("churn", 2), ("o'brien", 1), ("empty", 0)):
        client.create_registered_model(name)
        for _ in range(versions):
            client.create_model_version(name, "file:///x")
    mlflow.genai.register_prompt(name="greeting", template="Hello {{name}}")
    client.set_registered_model_alias("churn", "champion", "1")
    client.set_model_version_tag("churn", "2", "k", "v")
    registry = MlflowRegistry(store=MlflowStore(tracking_uri=client.tracking_uri))
    found = registry.versions()
    assert [(str(each), each.aliases, dict(each.tags), each.ready) for each in found] == [
        ("models:/churn/1", ("champion",), {}, True),
        ("models:/churn/2", (), {"k": "v"}, True),
        ("models:/o'brien/1", (), {}, True),
    ]
    assert registry.versions("churn") == found[:2] and registry.versions("gone") == []
    assert found[0].created == client.get_model_version("churn", "1").creation_timestamp / 1000
    registry.tag(found[1], {"k": None, "new": "value", "absent": None})
    assert client.get_model_version("churn", "2").tags == {"new": "value"}
    with pytest.raises(TrackingUnavailable, match="sent by an MLflow server"):
        registry.add_webhook("https://kbuild.example/webhook", "secret")
    assert registry.test_webhooks() == []


@pytest.mark.skipif(not hasattr(mlflow.MlflowClient, "create_webhook"), reason="this MLflow has no webhooks")
@pytest.mark.parametrize(("url", "lacks"), [("http://kbuild.example/webhook", "scheme"), ("https://", "URL")])
def test_a_webhook_that_mlflow_does_not_take_is_told_with_what_its_server_needs(
    client: mlflow.MlflowClient, url: str, lacks: str
) -> None:
    with pytest.raises(TrackingUnavailable, match=f"takes no webhook for {url}: .*{lacks}") as caught:
        registries._add(client, url, "whsec_secret")
    for name in ("MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"):
        assert name in str(caught.value.hint)
