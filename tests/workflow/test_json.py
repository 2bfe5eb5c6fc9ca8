"""What ``--json`` says beside what lies on the disk: values are read again from the OCI layout, the lock and the model,
by nothing of kbuild's."""

from __future__ import annotations

import datetime
import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from world import HOST, MODEL_ID, RUN_ID, VERSION, World, copy_world

from kbuild.cli.app import cli

Call = Callable[..., tuple[Any, str]]


@pytest.fixture(scope="module")
def placed(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    from pip_settings import asked_once

    with asked_once():
        return copy_world(built_world, tmp_path_factory.mktemp("json"))


@pytest.fixture
def kbuild(placed: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A command, its model and options; what it prints as JSON, and what it says."""
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(placed.tools.cache))
    monkeypatch.setenv("KBUILD_VERIFY", "0")  # the world's images hold nothing that runs
    monkeypatch.setattr("kbuild.api.session.open_store", lambda *_, **__: placed.store)
    monkeypatch.chdir(tmp_path)
    given = ["--lockfile", str(placed.lockfile), "--base", f"oci:{placed.base}"]

    def call(name: str, *argv: object) -> tuple[Any, str]:
        serves = "--as" not in argv
        more = [placed.model, *(given if serves else [])] if name in ("image", "lock", "render", "pack") else []
        done = CliRunner().invoke(cli, [*name.split(), *more, *map(str, argv), "--json"])
        assert done.exit_code == 0, done.exception
        return json.loads(done.stdout), done.stderr

    return call


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_layout(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Digest, manifest and config of the one image in an OCI layout (image-spec, image-layout.md)."""
    [entry] = json.loads((folder / "index.json").read_bytes())["manifests"]

    def blob(digest: str) -> bytes:
        data = (folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        assert digest_of(data) == digest
        return data

    manifest = json.loads(blob(entry["digest"]))
    return entry["digest"], manifest, json.loads(blob(manifest["config"]["digest"]))


def test_an_image_is_told_as_its_layout_has_it(kbuild: Call, placed: World, tmp_path: Path) -> None:
    told, said = kbuild("image", "--tag", "till:7", "--label", "team=a", "--output", tmp_path / "out")
    digest, manifest, config = read_layout(tmp_path / "out")
    assert (told["digest"], told["reference"]) == (digest, f"till@{digest}")
    assert told["image_id"] == manifest["config"]["digest"]
    history = [each.get("created_by") for each in config["history"] if not each.get("empty_layer")]
    assert told["layers"] == [
        {"digest": layer["digest"], "diff_id": diff_id, "size": layer["size"], "by": by}
        for layer, diff_id, by in zip(manifest["layers"], config["rootfs"]["diff_ids"], history, strict=True)
    ]
    blobs = {path.name: path.stat().st_size for path in (tmp_path / "out/blobs/sha256").iterdir()}
    assert told["size"] == sum(blobs.values())
    assert read_layout(Path(told["layout"])) == (digest, manifest, config)
    nothing = dict.fromkeys(("pushed", "untagged", "verified"))
    more = {"engine": "native", "tagged": True, "yanked": [], "platforms": {}}
    assert {key: told[key] for key in (*nothing, *more)} == nothing | more
    labels = config["config"]["Labels"]
    assert {"lock_digest", "model_digest", "plan_digest"} <= told.keys()
    assert {told["lock_digest"], told["model_digest"]} <= {*labels.values()} and labels["team"] == "a"
    tags = {key: value for run, given, _ in placed.store.tags if run == RUN_ID for key, value in given.items()}
    assert tags["kbuild.image"] == told["reference"] and tags["kbuild.image_digest"] == digest
    assert f"{told['size'] / 1e6:.0f} MB for {HOST}, built by the native engine" in said
    assert "kept on this machine" in said
    for line in ("kbuild verify till:7 ", "kbuild run till:7 "):
        assert f"  {line}" in said, said
    # Found again by each of its names, with what is in it.
    listed = [each for each in kbuild("list")[0] if each["digest"] == digest]
    [row] = listed
    built = datetime.datetime.fromisoformat(row.pop("built"))
    assert datetime.datetime.now(datetime.UTC) - built < datetime.timedelta(hours=1)
    assert row == {
        "names": ["till:7"], "digest": digest, "platforms": [str(HOST)], "size": told["size"], "damaged": None,
        "labels": labels, "models": [], "verified": None, "rebuilt": None, "audit": None, "audit_date": None,
        "pushed": [],
    }  # fmt: skip
    seen, _ = kbuild("inspect", "till:7")
    layers = [{**each, "created_by": each["by"]} for each in told["layers"]]
    assert seen["layers"] == [{key: value for key, value in each.items() if key != "by"} for each in layers]
    assert (seen["digest"], seen["config_digest"], seen["size"]) == (digest, told["image_id"], told["size"])
    assert (seen["platform"], seen["user"]) == (str(HOST), config["config"]["User"])
    assert seen["annotations"] == manifest["annotations"]
    packages = {each["name"]: each["version"] for each in seen["packages"]}
    assert packages["one"] == packages["two"] == "1" and packages["python"] == VERSION
    assert seen["unpacked"] == sum(each["size"] for each in seen["packages"])


@pytest.mark.slow
def test_a_lock_a_context_and_an_archive_are_told_as_they_lie_there(
    kbuild: Call, placed: World, tmp_path: Path
) -> None:
    image, _ = kbuild("image")
    lock, said = kbuild("lock", "-o", "l.yml")
    packages = yaml.safe_load((tmp_path / "l.yml").read_bytes())["package"]
    assert (lock["lockfile"], lock["packages"], lock["origin"]) == ("l.yml", len(packages), "given")
    assert "lock" in lock["seconds"] and "1 conda and 2 pip packages, each by url and sha256" in said
    assert f"kbuild image {placed.model} --locked" in said and "kbuild audit l.yml " in said
    context, said = kbuild("render", "-o", "context")
    assert context == {"context": "context", "plan_digest": image["plan_digest"]}
    assert f"docker build --build-context kbuild-base=oci-layout://{placed.base}@sha256:" in said
    assert f"kbuild image {placed.model} " in said
    pack, said = kbuild("pack", "-o", "m.tar.gz")
    data = (tmp_path / "m.tar.gz").read_bytes()
    assert (pack["path"], pack["digest"], pack["size"]) == ("m.tar.gz", digest_of(data), len(data))
    assert (pack["model_digest"], pack["reused"]) == (image["model_digest"], False)
    with tarfile.open(tmp_path / "m.tar.gz") as archive:
        member = archive.extractfile("archive.json")
        assert member is not None
        inside = json.loads(member.read())
    assert {pack["model_digest"], pack["lock_digest"]} <= {str(each) for each in inside.values()}
    assert "mkdir m && tar -xf m.tar.gz -C m " in said and "m/bin/kbuild-score IN OUT " in said
    assert kbuild("pack", "-o", "n.tar.gz")[0]["reused"] is True


def test_files_alone_are_told_as_their_layouts_have_them(kbuild: Call, placed: World, tmp_path: Path) -> None:
    other = "linux/arm64" if HOST.architecture == "amd64" else "linux/amd64"
    one, _ = kbuild("image", "--as", "model", "--tag", "files:1", "--output", tmp_path / "one")
    digest, manifest, config = read_layout(tmp_path / "one")
    assert (one["digest"], one["image_id"]) == (digest, manifest["config"]["digest"]) and one["platforms"] == {}
    assert one["reference"] == f"files@{digest}" and one["pushed"] is None
    assert one["size"] == sum(path.stat().st_size for path in (tmp_path / "one/blobs/sha256").iterdir())
    assert one["model_digest"] == config["config"]["Labels"]["io.kbuild.model.digest"]
    both, _ = kbuild("image", "--as", "model", "--platform", f"{HOST},{other}", "--output", tmp_path / "both")
    [entry] = json.loads((tmp_path / "both/index.json").read_bytes())["manifests"]
    index = json.loads((tmp_path / "both/blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes())
    assert both["digest"] == entry["digest"] != digest
    told = {platform: each["digest"] for platform, each in both["platforms"].items()}
    listed = {f"{it['platform']['os']}/{it['platform']['architecture']}": it["digest"] for it in index["manifests"]}
    assert told == listed and told[str(HOST)] == digest
    assert both["platforms"][str(HOST)] == {key: one[key] for key in ("digest", "image_id", "size")}
    pack, _ = kbuild("image", "--as", "modelpack", "--output", tmp_path / "pack")
    [entry] = json.loads((tmp_path / "pack/index.json").read_bytes())["manifests"]
    manifest = json.loads((tmp_path / "pack/blobs/sha256" / entry["digest"].removeprefix("sha256:")).read_bytes())
    assert (pack["digest"], pack["config_digest"]) == (entry["digest"], manifest["config"]["digest"])
    assert (pack["model_digest"], pack["layout"]) == (one["model_digest"], str(tmp_path / "pack"))


def test_a_model_is_told_as_it_was_recorded(kbuild: Call, placed: World) -> None:
    placed.store.tags.append((RUN_ID, {"kbuild.verify": "passed", "team": "a"}, None))
    seen, _ = kbuild("inspect", placed.model)
    folder = placed.store.models[placed.model]
    files = [path for path in folder.rglob("*") if path.is_file()]
    described = yaml.safe_load((folder / "MLmodel").read_bytes())
    assert (seen["files"], seen["size"]) == (len(files), sum(path.stat().st_size for path in files))
    assert (seen["run"], seen["python"], seen["flavors"]) == (RUN_ID, VERSION, list(described["flavors"]))
    assert seen["logged"] == f"{described['utc_time_created'][:19].replace(' ', 'T')}+00:00"
    assert seen["tags"]["kbuild.verify"] == "passed" and "team" not in seen["tags"]
    assert MODEL_ID in seen["model"] and seen["model_digest"] == kbuild("image")[0]["model_digest"]


def test_the_cache_is_told_by_what_lies_in_it(kbuild: Call, placed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_CACHE_LIMIT", "3 GB")
    told, _ = kbuild("cache info")
    images = [path for path in (placed.tools.cache / "images").iterdir() if path.is_dir()]
    assert (told["path"], told["limit"]) == (str(placed.tools.cache), 3_000_000_000)
    assert told["size"] == sum(each["size"] for each in told["kinds"].values())
    wheels = list((placed.tools.cache / "downloads").rglob("*.whl"))
    assert told["kinds"]["downloads"]["entries"] >= len(wheels) == 2 and images
    assert kbuild("cache verify")[0] == {"damaged": []}
    assert kbuild("cache prune", "--limit", "100 GB")[0] == {"removed": [], "freed": 0}
