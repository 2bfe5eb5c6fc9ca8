"""Models that are fetched into a limited cache take room there before they are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

sys.path.insert(0, str(Path(__file__).parent))

from fake_tracking import RUN, FakeTracking, fake_tracking

from kbuild.cache.room import keeping
from kbuild.errors import CacheTooSmall
from kbuild.model.cloud import CloudFolder
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import DirectStore

pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass
class Counting:
    """A ``Keeper`` that has room for ``most`` bytes at once."""

    most: int
    held: int = 0
    seen: list[int] = field(default_factory=list)

    def reserve(self, size: int, ahead: int = 0) -> int:
        if self.held + size > self.most:
            raise CacheTooSmall("too small")
        self.held += size
        self.seen.append(self.held)
        return size

    def release(self, size: int) -> None:
        self.held -= size


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "artifacts/deep").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {python_function: {env: conda.yaml, loader_module: a}}\n")
    (folder / "conda.yaml").write_text("dependencies: [python=3.11.7]\n")
    (folder / "artifacts/deep/weights.bin").write_bytes(bytes(50_000))
    (folder / "artifacts/more.bin").write_bytes(bytes(30_000))
    return folder


@pytest.fixture
def server(tmp_path: Path, source: Path) -> Iterator[FakeTracking]:
    with fake_tracking(tmp_path / "artifacts") as fake:
        fake.add_model(source)
        yield fake


def check(keeper: Counting, into: Path) -> None:
    files = [path.stat().st_size for path in into.rglob("*") if path.is_file()]
    assert max(keeper.seen) == sum(files) > 80_000
    assert keeper.held == 0


def test_of_a_server_that_passes_files_on(server: FakeTracking, tmp_path: Path) -> None:
    into = tmp_path / "cache/work/model"
    reference = ModelReference.parse(f"models:/m-{0:032x}")
    keeper = Counting(10**6)
    with keeping(tmp_path / "cache", keeper):
        DirectStore(tracking_uri=server.uri).fetch(reference, into)
    check(keeper, into)
    small = Counting(60_000)
    with keeping(tmp_path / "cache", small), pytest.raises(CacheTooSmall):
        DirectStore(tracking_uri=server.uri).fetch(reference, into)
    assert not [path for path in into.rglob("*") if path.is_file()] and small.held == 0


def test_a_file_of_a_run(server: FakeTracking, tmp_path: Path) -> None:
    package = server.artifacts / "1" / RUN / "artifacts/kbuild/packages/python.conda"
    package.parent.mkdir(parents=True)
    package.write_bytes(bytes(70_000))
    keeper = Counting(10**6)
    with keeping(tmp_path / "cache", keeper):
        DirectStore(tracking_uri=server.uri).download(RUN, "kbuild/packages/python.conda", tmp_path / "cache/lock")
    assert keeper.seen == [70_000] and keeper.held == 0


def test_of_object_storage(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        artifact_repository_registry, "get_artifact_repository", lambda uri: LocalArtifactRepository(source.as_uri())
    )
    into = tmp_path / "cache/model"
    into.mkdir(parents=True)
    keeper = Counting(10**6)
    with keeping(tmp_path / "cache", keeper):
        CloudFolder(uri="s3://bucket/model").place(into)
    check(keeper, into)
    with keeping(tmp_path / "cache", Counting(60_000)), pytest.raises(CacheTooSmall):
        CloudFolder(uri="s3://bucket/model").place(into)


def test_by_mlflows_client(source: Path, tmp_path: Path) -> None:
    store, into = MlflowStore(tracking_uri=f"sqlite:///{tmp_path}/no.db"), tmp_path / "cache/model"
    keeper = Counting(10**6)
    with keeping(tmp_path / "cache", keeper):
        store._download(source.as_uri(), into)
    check(keeper, into)
    with keeping(tmp_path / "cache", Counting(60_000)), pytest.raises(CacheTooSmall):
        store._download(source.as_uri(), into)
