"""A model as a CNCF ModelPack artifact: by the specification, whole, and the same wherever it is made."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import zstandard
from click.testing import CliRunner
from modelpack_schema import CONFIG, MANIFEST
from unpacked import blob
from world import RUN_ID, World

from kbuild.cli.image import command
from kbuild.errors import InvalidReference, LabelError, OutputError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.workflow.batch import modelpack
from kbuild.workflow.batch.modelpack import ModelPack, ModelPackRequest, build_modelpack
from kbuild.workflow.delivery import Delivery
from kbuild.workflow.once import Shared


def build(world: World, delivery: Delivery, **given: Any) -> ModelPack:
    request = ModelPackRequest(**{"model": world.model, **given})
    return build_modelpack(request, delivery, replace(world.tools, shared=Shared()))


def read(layout: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, tuple[str, tarfile.TarInfo, bytes]]]:
    """Manifest, config, and the files with their layers' kinds; every blob is compared with its digest on the way."""
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(layout, entry))
    config = json.loads(blob(layout, manifest["config"]))
    files = {}
    for layer, diff_id in zip(manifest["layers"], config["modelfs"]["diffIds"], strict=True):
        data = blob(layout, layer)
        if layer["mediaType"].endswith("+zstd"):
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == diff_id
        path = layer["annotations"]["org.cncf.model.filepath"]
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    assert member.name == path or member.name.startswith(f"{path}/")
                    kind = layer["mediaType"].removeprefix("application/vnd.cncf.model.").partition(".v1.")[0]
                    files[member.name] = (kind, member, content.read())
    return manifest, config, files


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_it_is_what_the_specification_says_and_has_every_file(world: World, tmp_path: Path, compression: str) -> None:
    made = build(world, Delivery(output=tmp_path / "out"), compression=compression)
    manifest, config, files = read(tmp_path / "out")
    jsonschema.validate(manifest, MANIFEST)
    jsonschema.validate(config, CONFIG)
    store = world.store.models[world.model]
    expected = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert {name: data for name, (_, _, data) in files.items()} == expected
    for _, member, _ in files.values():
        assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
    kinds = {name: kind for name, (kind, _, _) in files.items()}
    assert (kinds["MLmodel"], kinds["artifacts/weights.bin"]) == ("weight.config", "weight")
    assert {kind for name, kind in kinds.items() if name.startswith("code/")} <= {"code"}
    assert config["config"] == {"format": "mlflow"}
    assert manifest["annotations"]["io.kbuild.run.id"] == RUN_ID
    assert made.reference == f"{made.reference.partition('@')[0]}@{made.digest}"
    assert not (tmp_path / "out/manifest.json").exists(), "Docker's"
    assert world.store.tags == []


def test_another_machine_makes_the_same_and_one_tar_holds_it(world: World, tmp_path: Path) -> None:
    first = build(world, Delivery(output=tmp_path / "one"))
    second = build(world.with_cache("other"), Delivery(output=tmp_path / "two.tar", tag="churn:1"))
    assert first.digest == second.digest and second.reference == f"churn@{first.digest}"
    with tarfile.open(tmp_path / "two.tar") as archive:
        archive.extractall(tmp_path / "two", filter="data")
    assert read(tmp_path / "two")[:2] == read(tmp_path / "one")[:2]
    labelled = build(world, Delivery(output=tmp_path / "one"), labels=(("team", "x"),))
    assert labelled.digest != first.digest and read(tmp_path / "one")[0]["annotations"]["team"] == "x"


@pytest.mark.parametrize(("stored", "name"), [("shop", "shop-modelpack"), ("", "model-modelpack")])
def test_without_a_tag_it_has_the_model_s_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, name: str
) -> None:
    monkeypatch.setattr(modelpack, "name_values", lambda bundle, reference: {"name": stored})
    made = build(world, Delivery(output=tmp_path / "out"))
    assert made.reference.split("@")[0].endswith(name)


def test_it_is_pushed_by_its_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[Any] = []

    def push(layout: Path, digest: Any, reference: ImageReference, **_: Any) -> None:
        pushed.append((digest, str(reference), read(layout)[0]["artifactType"]))

    monkeypatch.setattr("kbuild.image.registry.transfer.push_image", push)
    made = build(world, Delivery(push="registry.example/models/churn:3"))
    assert pushed == [(made.digest, "registry.example/models/churn:3", "application/vnd.cncf.model.manifest.v1+json")]
    assert made.pushed == made.reference == f"registry.example/models/churn@{made.digest}" and made.layout is None
    named = build(world, Delivery(tag="shop/churn:3", push="registry.example/models/churn:3"))
    assert named.reference == f"shop/churn@{made.digest}" and named.pushed == made.pushed


@pytest.mark.parametrize(("files", "layers"), [(50, 50), (51, 1)])
def test_up_to_fifty_files_of_a_folder_have_a_layer_each(files: int, layers: int) -> None:
    bundle: Any = SimpleNamespace(files=[SimpleNamespace(path=f"weights/{number}.bin") for number in range(files)])
    assert len(modelpack.split(bundle)) == layers


def test_a_folder_of_very_many_files_is_one_layer(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelpack, "_ALONE", 0)
    build(world, Delivery(output=tmp_path / "out"))
    manifest, _, _ = read(tmp_path / "out")
    assert "artifacts" in [each["annotations"]["org.cncf.model.filepath"] for each in manifest["layers"]]


def test_what_it_cannot_have_is_told(world: World, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing on this machine takes") as caught:
        build(world, Delivery())
    assert "--push" in str(caught.value.hint) and "--output" in str(caught.value.hint)
    with pytest.raises(LabelError, match=r"io\.kbuild\.x is kbuild's own"):
        build(world, Delivery(output=tmp_path / "x"), labels=(("io.kbuild.x", "y"),))
    with pytest.raises(InvalidReference):
        build(world, Delivery(push="registry.example/models/{version}:1"))
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match="is not an image layout"):
        build(world, Delivery(output=tmp_path / "mine"))
    for argv in (["--load"], ["--base", "debian:bookworm"], ["--platform", "linux/amd64"], ["--slim"]):
        done = CliRunner().invoke(command, ["--as", "modelpack", world.model, *argv])
        assert done.exit_code == 2 and f"{argv[0]} is of images" in done.stderr


def test_the_command_prints_its_name(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kbuild.cli import model_image

    made = build(world, Delivery(output=tmp_path / "out", tag="churn:1"))
    monkeypatch.setattr(model_image, "open_here", lambda show: None)
    monkeypatch.setattr(model_image, "modelpack", lambda *_, **__: made)
    argv = ["--as", "modelpack", world.model, "--output", str(tmp_path / "out")]
    assert CliRunner().invoke(command, argv).stdout == f"churn@{made.digest}\n"
    told = json.loads(CliRunner().invoke(command, [*argv, "--json"]).stdout)
    assert (told["digest"], told["layout"]) == (str(made.digest), str(tmp_path / "out"))


def test_code_is_one_layer_and_what_is_read_first_is_a_document(world: World, tmp_path: Path) -> None:
    folder = world.store.models[world.model]
    for name in ("code/shop/__init__.py", "code/shop/nodes.py", "README.md", "notes.txt", "data.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    build(world, Delivery(output=tmp_path / "out"))
    manifest, _, files = read(tmp_path / "out")
    kinds = {name: files[name][0] for name in ("code/shop/nodes.py", "README.md", "notes.txt", "data.bin", "MLmodel")}
    assert kinds == {
        "code/shop/nodes.py": "code", "README.md": "doc", "notes.txt": "weight.config", "data.bin": "weight",
        "MLmodel": "weight.config",
    }  # fmt: skip
    layers = {each["annotations"]["org.cncf.model.filepath"]: each["annotations"] for each in manifest["layers"]}
    assert "code" in layers and "code/shop/nodes.py" not in layers
    untested = {name: value for name, each in layers.items() for key, value in each.items() if "untested" in key}
    assert untested["code"] == "false" and untested["data.bin"] == "true"


def test_a_tar_that_cannot_be_written_is_told(world: World, tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(OutputError, match=r"folder\.tar is a folder"):
        build(world, Delivery(output=tmp_path / "folder.tar"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        build(world, Delivery(output=tmp_path / "file/m.tar"))
    made = build(world, Delivery(output=tmp_path / "new/m.tar"))
    assert made.layout == tmp_path / "new/m.tar" and tarfile.is_tarfile(made.layout)
