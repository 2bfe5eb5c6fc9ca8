"""How often a tracking server is asked, and what is kept of its answers."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

sys.path.insert(0, str(Path(__file__).parent))

from fake_tracking import RUN, FakeTracking, fake_tracking
from store_questions import Alone

from kbuild import http
from kbuild.cache.damage import damaged
from kbuild.cli import app, image
from kbuild.errors import TrackingUnavailable
from kbuild.model.bundle import ModelBundle
from kbuild.model.kept import is_damaged_model
from kbuild.model.model_reference import ModelReference
from kbuild.tracking.description import NOTE

TAGS = {"kbuild.image": "model@sha256:1", "kbuild.image_digest": "sha256:1", "kbuild.model_digest": "sha256:2"}
MLMODEL = """\
flavors:
  python_function: {env: conda.yaml, loader_module: mlflow.sklearn, python_version: 3.11.7}
utc_time_created: '2026-01-01 00:00:00'
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(12):
        file = folder / f"code/package/module{number}/__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text(f"number = {number}\n")
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / "conda.yaml").write_text("dependencies: [python=3.11.7]\n")
    return folder


@pytest.fixture
def server(tmp_path: Path, source: Path) -> Iterator[FakeTracking]:
    with fake_tracking(tmp_path / "artifacts") as fake:
        model_id = fake.add_model(source)
        location = fake.models[model_id]["artifact_uri"]
        fake.register("dev", "1", f"models:/{model_id}", location)
        for number in range(1, 6):
            fake.register("prod", str(number), "models:/dev/1", location)
        fake.aliases["dev", "champion"] = "1"
        lock = fake.artifacts / "1" / RUN / "artifacts/kbuild/conda-lock.yml"
        lock.parent.mkdir(parents=True)
        lock.write_text("version: 1\n")
        yield fake


def build(server: FakeTracking, text: str, folder: Path) -> tuple[ModelBundle, list[str]]:
    """What ``kbuild image`` asks of its store, in its order, by a process of its own; and the requests that made."""
    store = Alone(tracking_uri=server.uri, cache=folder / "cache")
    server.asked.clear()
    reference = store.pin(ModelReference.parse(text))
    bundle = store.fetch(reference, folder / "work" / "model", kept=True)
    assert bundle.facts.run_id == RUN
    assert store.download(RUN, "kbuild/conda-lock.yml", folder / "work" / "lock") is not None
    store.set_tags(RUN, TAGS, model_uri=bundle.facts.uri)
    return bundle, list(server.asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [RUN, "models:/m-" + "0" * 32, "models:/dev/1", "models:/prod/3", "models:/dev@champion"]
)
def test_a_build_of_what_is_there_asks_six_times_at_most(server: FakeTracking, tmp_path: Path, text: str) -> None:
    first, asked = build(server, text, tmp_path)
    assert len(asked) > 30
    assert all(
        TAGS.items() <= {each["key"]: each["value"] for each in version["tags"]}.items() for version in server.versions
    )
    written = [server.tags[NOTE], *(each["description"] for each in server.versions)]
    written.append(server.model_tags["m-" + "0" * 32][NOTE])
    assert all("\nkbuild run --port 8080 sha256:1\n" in each for each in written)
    again, asked = build(server, text, tmp_path)
    assert len(asked) <= 6, "\n".join(asked)
    assert not [each for each in asked if "/models/" in each or not each.startswith("GET")]
    assert again == first


@pytest.mark.slow
def test_files_that_are_no_longer_those_that_were_kept_are_fetched_again(server: FakeTracking, tmp_path: Path) -> None:
    first, _ = build(server, RUN, tmp_path)
    [file] = (tmp_path / "cache/models").glob("*/files/code/package/module3/__init__.py")
    file.unlink()  # it is a hard link to the model's file in the build
    file.write_text("number = 4\n")
    assert [path.parent for path, _ in damaged(tmp_path / "cache", is_damaged_model)] == [tmp_path / "cache/models"]
    again, asked = build(server, RUN, tmp_path)
    assert again.digest == first.digest and len(asked) > 10
    assert list(damaged(tmp_path / "cache", is_damaged_model)) == []
    assert len(build(server, RUN, tmp_path)[1]) <= 6


@pytest.mark.slow
def test_what_is_not_ready_is_not_kept(server: FakeTracking, tmp_path: Path) -> None:
    server.models["m-" + "0" * 32]["status"] = "LOGGED_MODEL_PENDING"
    build(server, "models:/dev/1", tmp_path)
    file = server.artifacts / f"1/models/m-{'0' * 32}/artifacts/late.txt"
    file.write_text("late")
    bundle, _ = build(server, "models:/dev/1", tmp_path)
    assert "late.txt" in {file.path for file in bundle.files}


@pytest.mark.slow
def test_a_model_of_the_same_id_on_another_server_is_another(
    server: FakeTracking, source: Path, tmp_path: Path
) -> None:
    first, _ = build(server, RUN, tmp_path)
    (source / "code/package/module0/__init__.py").write_text("number = 100\n")
    with fake_tracking(tmp_path / "elsewhere") as other:
        other.add_model(source)
        store = Alone(tracking_uri=other.uri, cache=tmp_path / "cache")
        second = store.fetch(ModelReference.parse(RUN), tmp_path / "into", kept=True)
    assert second.digest != first.digest


@pytest.mark.slow
def test_who_compares_with_the_server_gets_the_servers_files(server: FakeTracking, tmp_path: Path) -> None:
    build(server, RUN, tmp_path)
    file = server.artifacts / f"1/models/m-{'0' * 32}/artifacts/code/package/module0/__init__.py"
    file.write_text("number = 100\n")
    store = Alone(tracking_uri=server.uri, cache=tmp_path / "cache")
    bundle = store.fetch(ModelReference.parse(RUN), tmp_path / "fresh")
    assert (bundle.root / "code/package/module0/__init__.py").read_text() == "number = 100\n"


def test_a_version_of_that_name_and_number_made_anew_is_another(server: FakeTracking, tmp_path: Path) -> None:
    build(server, RUN, tmp_path)
    [mine] = [each for each in server.versions if (each["name"], each["version"]) == ("prod", "2")]
    mine |= {"creation_timestamp": 8, "tags": []}
    server.locations["prod", "2"] = "mlflow-artifacts:/1/models/m-" + "9" * 32 + "/artifacts"
    build(server, RUN, tmp_path)
    assert mine["tags"] == []


def bursts(times: int, status: int) -> Callable[[str], tuple[int, dict[str, str]] | None]:
    """Each path fails so many times, and then works."""
    asked: Counter[str] = Counter()

    def fault(path: str) -> tuple[int, dict[str, str]] | None:
        asked[path] += 1
        return (status, {}) if asked[path] <= times else None

    return fault


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, 429, 0])
def test_bursts_are_ridden_out_by_whatever_a_build_asks(
    server: FakeTracking, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_BACKOFF", 0.001)
    server.fault = bursts(3, status)
    build(server, "models:/dev@champion", tmp_path)
    assert TAGS.items() <= server.tags.items()
    store = Alone(tracking_uri=server.uri)
    note = tmp_path / "note.txt"
    note.write_text("note")
    store.upload(RUN, [note], "kbuild")
    assert (server.artifacts / "1" / RUN / "artifacts/kbuild/note.txt").read_text() == "note"


@pytest.mark.parametrize(("status", "message"), [(503, "it answers 503 Service Unavailable"), (0, "without response")])
def test_a_server_that_does_not_recover_is_told_in_one_line(
    server: FakeTracking,
    tmp_path: Path,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(http, "PATIENCE", 0.5)
    monkeypatch.setattr(http, "_BACKOFF", 0.001)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.chdir(tmp_path)
    server.fault = bursts(10**6, status)
    begin = time.monotonic()
    with pytest.raises(TrackingUnavailable) as caught:
        image.command.main([RUN], standalone_mode=False)
    assert time.monotonic() - begin < 10
    capsys.readouterr()
    assert app.report(caught.value) == 14
    line, hint, *_ = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and server.uri in line and line.endswith(message)
    assert "MLFLOW_TRACKING_URI" in hint


def test_object_storage_is_reached_by_its_uri_alone(
    server: FakeTracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage is a folder here; its own protocol is in the integration tests."""

    def open_folder(uri: str) -> LocalArtifactRepository:
        assert uri.startswith("s3://models/")
        return LocalArtifactRepository(f"file://{server.artifacts}/{uri.removeprefix('s3://models/')}")

    monkeypatch.setattr(artifact_repository_registry, "get_artifact_repository", open_folder)
    server.root = "s3://models"
    for model in server.models.values():
        model["artifact_uri"] = model["artifact_uri"].replace("mlflow-artifacts:", server.root)
    for key, location in server.locations.items():
        server.locations[key] = location.replace("mlflow-artifacts:", server.root)
    first, asked = build(server, "models:/dev@champion", tmp_path)
    assert not [each for each in asked if "artifacts" in each]
    store = Alone(tracking_uri=server.uri)
    (tmp_path / "note.txt").write_text("note")
    store.upload(RUN, [tmp_path / "note.txt"], "kbuild/deep")
    found = store.download(RUN, "kbuild/deep/note.txt", tmp_path / "down")
    assert found is not None and found.read_text() == "note"
    assert store.download(RUN, "kbuild/none.txt", tmp_path / "down") is None
    again, asked = build(server, "models:/dev@champion", tmp_path)
    assert again == first and len(asked) <= 4, asked
