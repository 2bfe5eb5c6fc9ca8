from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_files import RunFiles

from kbuild.digest import digest_bytes
from kbuild.image.base.records import BaseRecords, Recorded
from kbuild.plan.base import BasePackage, ResolvedBase
from kbuild.platform import Platform
from kbuild.progress import Silent

AMD64 = Platform("linux", "amd64")
LIBC = BasePackage(name="libc6", version="2.36-9", architecture="amd64", sha256="0" * 64, filename="pool/libc6.deb")
DEBS = ResolvedBase(
    kind="debs", name="debian:bookworm", digest=digest_bytes(b"debs"), packages=(LIBC,), path=Path("/somewhere")
)
OTHER = ResolvedBase(
    kind="registry", name="python:3.11", digest=digest_bytes(b"other"), reference=f"python@{digest_bytes(b'other')}"
)


def model(run_id: str | None = "b" * 32) -> Any:
    return SimpleNamespace(digest=digest_bytes(b"model"), facts=SimpleNamespace(run_id=run_id))


@pytest.fixture
def store() -> RunFiles:
    return RunFiles()


def records(store: RunFiles, folder: Path) -> BaseRecords:
    return BaseRecords(store=store, cache=folder)


def add(kept: BaseRecords, base: ResolvedBase, bundle: Any) -> None:
    kept.write(bundle, AMD64, kept.read(bundle, AMD64, Silent()), base, Silent())


def test_nothing_is_known_at_first(store: RunFiles, tmp_path: Path) -> None:
    assert records(store, tmp_path).read(model(), AMD64, Silent()) == Recorded()


def test_another_machine_finds_the_pins_with_the_run(store: RunFiles, tmp_path: Path) -> None:
    add(records(store, tmp_path / "one"), DEBS, model())
    found = records(store, tmp_path / "two").read(model(), AMD64, Silent())
    assert found == Recorded(first="debian:bookworm", bases={"debian:bookworm": replace(DEBS, path=None)})
    assert b"/somewhere" not in store.files["kbuild/bases-linux-64.json"]


def test_another_base_does_not_drop_the_pins_of_the_first(store: RunFiles, tmp_path: Path) -> None:
    kept = records(store, tmp_path)
    add(kept, DEBS, model())
    add(kept, OTHER, model())
    found = kept.read(model(), AMD64, Silent())
    assert found.first == "debian:bookworm"
    assert found.bases == {"debian:bookworm": replace(DEBS, path=None), "python:3.11": OTHER}


def test_platforms_are_kept_apart(store: RunFiles, tmp_path: Path) -> None:
    kept = records(store, tmp_path)
    add(kept, DEBS, model())
    assert kept.read(model(), Platform("linux", "arm64"), Silent()) == Recorded()


def test_a_model_without_a_run_is_remembered_here(store: RunFiles, tmp_path: Path) -> None:
    add(records(store, tmp_path), DEBS, model(None))
    assert store.files == {}
    assert records(store, tmp_path).read(model(None), AMD64, Silent()).first == "debian:bookworm"


def test_a_store_that_is_down_does_not_stop_the_work(store: RunFiles, tmp_path: Path) -> None:
    store.down = True
    kept = records(store, tmp_path)
    add(kept, DEBS, model())
    assert kept.read(model(), AMD64, Silent()).first == "debian:bookworm"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"first": "x"}', b'{"first": "x", "bases": {"x": 3}}'])
def test_a_damaged_record_counts_as_none(store: RunFiles, tmp_path: Path, content: bytes) -> None:
    store.files["kbuild/bases-linux-64.json"] = content
    assert records(store, tmp_path).read(model(), AMD64, Silent()) == Recorded()
