from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from plans import EMPTY

from kbuild.digest import Digest, digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.engine import BuiltImage, EngineOutput, RawLayer
from kbuild.image.oci import compress
from kbuild.image.oci.layout import blob_path
from kbuild.image.oci.tarball import FILE, Entry, tar_chunks
from kbuild.image.store.pack import pack
from kbuild.platform import Platform
from kbuild.progress import Silent
from kbuild.verify.rebuild import RebuildReport, carry_downloads, judge, read_claims

OWN = {
    "io.kbuild.base.name": "debian:bookworm",
    "io.kbuild.lock.digest": f"sha256:{'1' * 64}",
    "io.kbuild.model.digest": f"sha256:{'2' * 64}",
    "io.kbuild.model.uri": "models:/m-1",
    "org.opencontainers.image.revision": "c" * 40,
}


@dataclass(frozen=True)
class Layer:
    content: bytes

    def chunks(self) -> Iterator[bytes]:
        return tar_chunks([Entry(name=b"x", kind=FILE, mode=0o644, size=len(self.content), source=self.content)])


def make(
    target: Path, content: bytes = b"content " * 9000, *, labels: dict[str, str] | None = None, **annotations: str
) -> BuiltImage:
    plan = replace(EMPTY, annotations=tuple(sorted({**OWN, **annotations}.items())))
    config: dict[str, Any] = {"Labels": {**OWN, **(labels or {})}}
    layers = (RawLayer(content=Layer(content), created_by="COPY"), RawLayer(content=Layer(b"same"), created_by="COPY"))
    return pack(EngineOutput(layers=layers, config=config), plan, target, engine="x", progress=Silent())


@pytest.fixture
def image(tmp_path: Path) -> BuiltImage:
    return make(tmp_path / "image")


@pytest.fixture
def otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on another compressor, that gives other bytes for the same content."""
    monkeypatch.setattr(compress, "_ZSTD_LEVEL", 19)
    monkeypatch.setitem(compress.SETTINGS, "zstd", "libzstd 1.5.6, level 3")


def judged(image: BuiltImage, rebuilt: BuiltImage) -> RebuildReport:
    return judge(image, rebuilt, read_claims(image), Silent(), versions={}, reused_downloads=False, seconds={})


def test_one_digest_is_the_same(image: BuiltImage, tmp_path: Path) -> None:
    report = judged(image, make(tmp_path / "again"))
    assert (report.verdict, report.same) == ("same", True)
    assert report.to_json()["verdict"] == "same"


@pytest.mark.usefixtures("image", "otherwise")
def test_the_same_content_by_another_compressor_has_a_verdict_of_its_own(image: BuiltImage, tmp_path: Path) -> None:
    again = make(tmp_path / "again")
    assert again.digest != image.digest and again.config_digest == image.config_digest
    report = judged(image, again)
    assert (report.verdict, report.same) == ("repacked", False)
    assert report.packed_by == ("libzstd 1.5.7, level 3; packer 1.1", "libzstd 1.5.6, level 3; packer 1.1")
    assert report.to_json()["packed_by"]["image"].startswith("libzstd 1.5.7")
    assert json.dumps(report.to_json())


@pytest.mark.slow
@pytest.mark.usefixtures("image", "otherwise")
def test_other_content_differs_however_it_is_packed(image: BuiltImage, tmp_path: Path) -> None:
    assert judged(image, make(tmp_path / "a", b"other " * 9000)).verdict == "differs"
    assert judged(image, make(tmp_path / "b", labels={"team": "x"})).verdict == "differs"
    assert judged(image, make(tmp_path / "c", title="x")).verdict == "differs"


@pytest.mark.slow
@pytest.mark.usefixtures("image", "otherwise")
def test_a_layer_that_is_not_what_its_config_says_is_no_same_content(image: BuiltImage, tmp_path: Path) -> None:
    """Config and manifest are those of the real image, the layer below has other files in it."""
    again = make(tmp_path / "again")
    forged = make(tmp_path / "forged", b"evil " * 9000)
    layer = image.layers[0]
    blob = blob_path(image.layout, layer.digest)
    blob.unlink()
    blob.write_bytes(blob_path(forged.layout, forged.layers[0].digest).read_bytes())
    assert judged(image, again).verdict == "differs"
    blob.write_bytes(b"broken")
    with pytest.raises(InvalidImage, match="cannot be read"):
        judged(image, again)


def test_the_report_has_each_thing_of_the_image_that_was_built_again_in_its_place(tmp_path: Path) -> None:
    """By the labels as they were written, and by the two images' own manifests."""
    slim = {"io.kbuild.slim.left-out": "flask", "io.kbuild.slim.left-out-files": '{"mlflow": ["server/**"]}'}
    image, again = make(tmp_path / "image", labels=slim), make(tmp_path / "again", b"other", labels=slim)

    def packed_by(one: BuiltImage) -> str:
        manifest = json.loads(blob_path(one.layout, one.digest).read_bytes())
        return str(manifest["annotations"]["io.kbuild.packed-by"])

    facts: dict[str, Any] = {"versions": {"python": "3.11.2"}, "reused_downloads": True, "seconds": {"build": 2.5}}
    claims = replace(read_claims(image), platform=Platform("linux", "arm64"), base="debian:trixie")
    report = judge(image, again, claims, Silent(), **facts).to_json()
    assert report.pop("difference")
    assert report == {
        "image": str(image.digest), "rebuilt": str(again.digest), "same": False, "verdict": "differs",
        "packed_by": {"image": packed_by(image), "rebuilt": packed_by(again)}, "model": "models:/m-1",
        "model_digest": f"sha256:{'2' * 64}", "lock_digest": f"sha256:{'1' * 64}", "base": "debian:trixie",
        "platform": "linux/arm64", "compression": "zstd", "left_out": ["flask"],
        "left_out_files": {"mlflow": ["server/**"]}, **facts,
    }  # fmt: skip


def test_an_image_of_a_model_folder_names_no_model(tmp_path: Path) -> None:
    image = make(tmp_path / "image")
    config = json.loads(blob_path(image.layout, image.config_digest).read_bytes())
    del config["config"]["Labels"]["io.kbuild.model.uri"]
    data = json.dumps(config).encode()
    digest = digest_bytes(data)
    blob_path(image.layout, digest).write_bytes(data)
    nameless = replace(image, config_digest=digest)
    with pytest.raises(InvalidImage, match=r"io\.kbuild\.model\.uri") as caught:
        read_claims(nameless)
    assert "--model FOLDER" in str(caught.value.hint)
    for each in (nameless, image):
        assert read_claims(each, model="/models/x").model == "/models/x"


def test_labels_of_the_users_are_told_from_kbuilds_own(tmp_path: Path) -> None:
    mine = {"team": "x", "org.opencontainers.image.revision": "d" * 40, "org.opencontainers.image.title": "mine"}
    image = make(tmp_path / "image", labels=mine)
    assert dict(read_claims(image).labels) == mine
    assert read_claims(make(tmp_path / "plain")).labels == ()


def test_only_downloads_that_still_have_their_sha256_are_carried(tmp_path: Path) -> None:
    cache, clean = tmp_path / "cache", tmp_path / "clean"
    names = {"downloads/{}/a.whl": b"a", "debs/{}.deb": b"b"}
    whole = [name.format(digest_bytes(data).hex) for name, data in names.items()]
    damaged = [f"downloads/{'0' * 64}/c.whl", f"debs/{'1' * 64}.deb", f"downloads/{digest_bytes(b'd').hex}/.part"]
    for name, data in [*zip(whole, names.values(), strict=True), *((name, b"d") for name in damaged)]:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(data)
    assert carry_downloads(cache, clean) == 2
    assert sorted(str(path.relative_to(clean)) for path in clean.rglob("*") if path.is_file()) == sorted(whole)


def test_what_a_slim_image_left_out_is_read_from_its_labels(tmp_path: Path) -> None:
    named = {"io.kbuild.slim.left-out": "flask gunicorn", "io.kbuild.slim.left-out-files": '{"mlflow": ["server/**"]}'}
    left_out = read_claims(make(tmp_path / "slim", labels=named)).left_out
    assert left_out.packages == ("flask", "gunicorn")
    assert left_out.to_json()["files"] == {"mlflow": ["server/**"]}
    for text in ("{", "[]", '{"mlflow": 3}'):
        broken = make(tmp_path / f"broken-{len(text)}", labels={**named, "io.kbuild.slim.left-out-files": text})
        with pytest.raises(InvalidImage, match="left-out-files cannot be read"):
            read_claims(broken)


@pytest.mark.usefixtures("image", "otherwise")
def test_of_an_image_of_a_registry_the_other_layers_are_fetched_before_they_are_compared(
    image: BuiltImage, tmp_path: Path
) -> None:
    brought: list[Any] = []

    class Remote:
        """Its layers are elsewhere until they are asked for."""

        def __getattr__(self, name: str) -> Any:
            return getattr(image, name)

        def bring(self, digests: list[Digest], progress: object) -> None:
            brought.append(digests)

    again = make(tmp_path / "again")
    assert judged(Remote(), again).verdict == "repacked"  # type: ignore[arg-type]
    apart = [one.digest for one, other in zip(image.layers, again.layers, strict=True) if one.digest != other.digest]
    assert apart in brought and apart
