"""Building as a whole: from a model of a store to the files of the image, its name, its delivery and its run's tags."""

import json
import os
import random
import shutil
import signal
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests
import yaml
from unpacked import blob, read_image
from world import HOST, MODEL, MODEL_ID, RUN_ID, SHORT, STDLIB_TEXT, VERSION, WHEELS, World

from kbuild.digest import Digest, digest_bytes, digest_file
from kbuild.environment.index.withdrawn import Withdrawn
from kbuild.errors import (
    BaseImageError,
    HashMismatch,
    InvalidModel,
    InvalidReference,
    KbuildError,
    LockfileStale,
    ModelNotFound,
    OutputError,
    PlatformError,
    TrackingUnavailable,
)
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.listing import list_here
from kbuild.image.store.local import LocalImages
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import Written
from kbuild.plan.left_out import LeftOut
from kbuild.platform import Platform
from kbuild.process import RunnerGroup
from kbuild.progress import Progress, Silent
from kbuild.shipped import image_files
from kbuild.workflow.batch.packing import pack_model
from kbuild.workflow.build import _asking_of_yanked, _copy, build_image, lock_model, render_context
from kbuild.workflow.delivery import Delivery, ImageResult, Verified
from kbuild.workflow.once import Shared
from kbuild.workflow.stopping import Stoppable
from kbuild.workflow.tools import Open, Tools

OTHER = Platform("linux", "arm64" if HOST.architecture == "amd64" else "amd64")
SITE = f"opt/env/lib/python{SHORT}/site-packages"
TAG = f"cpython-{SHORT.replace('.', '')}"


def build(world: World, delivery: Delivery | None = None, **given: object) -> ImageResult:
    """What one command does: nothing is remembered in memory from the one before."""
    return build_image(world.request(**given), delivery or Delivery(), replace(world.tools, shared=Shared()))


def edit_lock(world: World, change: object) -> None:
    document = yaml.safe_load(world.lockfile.read_text("utf-8"))
    change(document)  # type: ignore[operator]
    world.lockfile.write_text(yaml.safe_dump(document), "utf-8")


def test_a_model_without_its_own_code_is_told_before_it_is_built(world: World) -> None:
    """As MLflow stores a model of functions of the project's package that was logged without ``code_paths``."""
    model = world.store.models[world.model]
    described = yaml.safe_load((model / "MLmodel").read_text("utf-8"))
    described["flavors"]["python_function"]["python_model"] = "python_model.pkl"
    (model / "MLmodel").write_text(yaml.safe_dump(described), "utf-8")
    # Protocol 0 has a line each for module and name: those of wheels, of the standard library, and of nobody.
    names = (b"two main", b"one.inner f", b"collections OrderedDict", b"kbuild.training.pyfunc X", b"churn.nodes score")
    pickled = b"(" + b"".join(b"c%s\n%s\n" % tuple(name.split()) for name in names) + b"t."
    (model / "python_model.pkl").write_bytes(pickled)
    with pytest.raises(InvalidModel, match="the model imports churn, which neither its code") as caught:
        build(world)
    assert 'code_paths=["src/churn"]' in (caught.value.hint or "")
    assert not any((world.tools.cache / "images").rglob("index.json"))
    (model / "code").mkdir()
    (model / "code/churn.py").write_text("def score(): ...\n", "utf-8")
    assert not build(world).reused


def test_every_file_of_the_image_is_where_it_comes_from(bare_world: World) -> None:
    image = read_image(build(bare_world).layout)
    model = image.below("opt/model")
    store = bare_world.store.models[bare_world.model]
    assert model == {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert MODEL.items() <= model.items()

    runtime = {f"kbuild/{name}": data for name, data in image.below("opt/kbuild/kbuild").items()}
    sources = {name: data for name, data in runtime.items() if not name.endswith(".pyc")}
    assert sources == {name: path.read_bytes() for name, path in image_files().items()}

    site = image.below(SITE)
    for name, files in WHEELS.items():
        assert {path: site[path].decode() for path in files} == files
        assert site[f"{name}-1.dist-info/METADATA"].startswith(b"Metadata-Version")
    library = image.below(f"opt/env/lib/python{SHORT}")
    assert library["config.py"].decode() == STDLIB_TEXT.replace(STDLIB_TEXT.split("'")[1], "/opt/env")
    assert image.data("etc/base") == b"base\n"
    known = ("opt/model/", "opt/kbuild/kbuild/", "opt/env/")
    rest = {name for name in image.files if not name.startswith(known)}
    assert {name for name in rest if "/lib" not in f"/{name}"} <= {"etc/base", "etc/passwd"}


def test_what_is_to_be_left_out_is_not_in_the_image(world: World) -> None:
    """As a rebuild asks for it, by what the label of a slim image says."""
    image = read_image(build(world, left_out=LeftOut(packages=("two",), files={"one": ("*.txt",)})).layout)
    site, labels = image.below(SITE), image.config["config"]["Labels"]
    assert labels["io.kbuild.slim.left-out"] == "two"
    assert json.loads(labels["io.kbuild.slim.left-out-files"]) == {"one": ["*.txt"]}
    assert {name for name in site if name.startswith(("two", "__pycache__/two"))} == set()
    assert {name for name in site if name.startswith("one/") and not name.endswith(".pyc")} == {"one/__init__.py"}


def test_packages_are_told_once_though_two_steps_ask_for_them(bare_world: World) -> None:
    told: list[str] = []

    class Listening(Silent):
        def made(self, text: str) -> None:
            told.append(text)

    @contextmanager
    def phases(phase: str) -> Iterator[Progress]:
        yield Listening() if phase == "download" else Silent()

    build_image(bare_world.request(), Delivery(), replace(bare_world.tools, phases=phases))
    assert [line.partition(",")[0] for line in told] == ["3 packages"]


def test_files_are_nobodys_and_of_no_day_and_every_module_has_its_bytecode(world: World) -> None:
    image = read_image(build(world).layout)
    programs = {"opt/env/bin/one", "opt/env/bin/two", f"opt/env/bin/python{SHORT}"}
    assert programs <= set(image.files)
    for name, (member, _) in image.files.items():
        if not name.startswith("opt/"):
            continue
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0), name
        if member.isfile():
            assert member.mode == (0o755 if name in programs else 0o644), name
    sources = [name for name in image.files if name.endswith(".py")]
    assert len(sources) > 30
    for name in sources:
        folder, _, file = name.rpartition("/")
        compiled = image.data(f"{folder}/__pycache__/{file.removesuffix('.py')}.{TAG}.pyc")
        # PEP 552: flags 1 is "checked against nothing", so that no time counts.
        assert compiled[4:8] == b"\x01\0\0\0", name
    first = image.data("opt/env/bin/one").splitlines()[0].decode()
    assert first in ("#!/opt/env/bin/python", f"#!/opt/env/bin/python{SHORT}")


def test_the_config_says_how_it_runs_and_what_it_was_made_from(world: World) -> None:
    result = build(world)
    image = read_image(result.layout)
    config = image.config["config"]
    assert config["Entrypoint"] == ["/opt/env/bin/python", "-m", "kbuild.serving"]
    assert config["User"] == "65532:65532"
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment["BASE"] == "yes"
    assert environment["PYTHONPATH"] == "/opt/kbuild"
    assert environment["KBUILD_MODEL"] == "/opt/model"
    assert image.config["created"] == "2023-11-14T22:13:20Z"
    labels = config["Labels"]
    assert labels["io.kbuild.run.id"] == RUN_ID
    assert labels["io.kbuild.model.uri"] == f"models:/{MODEL_ID}"
    assert labels["io.kbuild.model.digest"] == str(result.model_digest)
    base = json.loads((world.base / "index.json").read_bytes())["manifests"][0]
    assert labels["io.kbuild.base.digest"] == base["digest"]
    # The base's own layer comes first, as it is.
    base_config = json.loads(blob(world.base, json.loads(blob(world.base, base))["config"]))
    assert image.config["rootfs"]["diff_ids"][0] == base_config["rootfs"]["diff_ids"][0]


def test_the_run_is_told_the_image_its_size_its_digests_and_nothing_else(world: World) -> None:
    result = build(world, Delivery(tag="registry.example/team/{name}:{run_id}"))
    entry = json.loads((result.layout / "index.json").read_bytes())["manifests"][0]
    name = f"registry.example/team/model:{RUN_ID}"
    assert result.reference == f"{name.rpartition(':')[0]}@{entry['digest']}"
    (told,) = world.store.tags
    assert (told[0], told[2]) == (RUN_ID, f"models:/{MODEL_ID}")
    digests = {"kbuild.image", "kbuild.image_digest", "kbuild.lock_digest", "kbuild.model_digest"}
    assert set(told[1]) == {*digests, "kbuild.image_size"}
    assert told[1]["kbuild.image_size"] == f"{result.image.size / 1e6:.0f} MB"
    assert told[1]["kbuild.image"] == result.reference
    assert told[1]["kbuild.image_digest"] == entry["digest"]
    # What they are made of stands in both alike: who reads the run finds the image, and the other way round.
    labels = read_image(result.layout).config["config"]["Labels"]
    for kind in ("lock", "model"):
        assert told[1][f"kbuild.{kind}_digest"] == labels[f"io.kbuild.{kind}.digest"]
    assert result.untagged is None and result.tagged


def test_who_has_a_word_is_shown_each_image_also_one_that_was_there(world: World) -> None:
    shown: list[list[str]] = []

    class Listening(Open):
        def built(self, reference: ModelReference, images: Mapping[Platform, BuiltImage]) -> None:
            shown.append([str(image.digest) for image in images.values()])

    for _ in range(2):
        made = build_image(world.request(), Delivery(), replace(world.tools, shared=Shared()), gates=Listening())
    assert made.reused and shown == 2 * [[str(made.image.digest)]]


@pytest.mark.parametrize("where", ["planned", "verified", "built"])
def test_who_ends_a_build_ends_it_before_anybody_is_given_the_image(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """No name, no registry, no shared layers, and nothing for the run: an audit that refuses it comes before all."""
    given: list[str] = []

    def end(*_: object, **__: object) -> None:
        raise InvalidModel("somebody else has it")

    gates, passed = Open(), lambda *_, **__: Verified(verdict="passed")
    monkeypatch.setattr("kbuild.workflow.build.verify_built", end if where == "verified" else passed)
    if where != "verified":
        monkeypatch.setattr(gates, where, end)
    monkeypatch.setattr("kbuild.workflow.publishing.publish", lambda *_, **__: given.append("registry"))
    monkeypatch.setattr("kbuild.workflow.build.give_layers", lambda *_, **__: given.append("layers"))
    name = "registry.example/till:1"
    delivery = Delivery(tag="till:1", push=name, verify=True, cache_to=ImageReference.parse("registry.example/layers"))
    with pytest.raises(InvalidModel, match="somebody else has it"):
        build_image(world.request(), delivery, world.tools, gates=gates)
    here = list_here(world.tools.cache / "images")
    assert (given, world.store.tags) == ([], []) and [each.names for each in here] == [()] * (where != "planned")
    assert not [path for _, path in world.store.files if path.startswith("kbuild/bases-")]


@pytest.mark.parametrize("first", ["the build's", None])
def test_what_the_run_was_not_told_of_the_verdict_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, first: str | None
) -> None:
    verified = Verified(verdict="passed", untagged="the verdict's")
    monkeypatch.setattr("kbuild.workflow.build.verify_built", lambda *_, **__: verified)
    monkeypatch.setattr("kbuild.workflow.delivery.write_tags", lambda *_: Written(refused=first))
    assert build(world, Delivery(verify=True)).untagged == (first or "the verdict's")


def test_a_run_that_takes_no_tags_is_told_and_the_image_is_there(world: World) -> None:
    world.store.refuses_tags = True
    result = build(world)
    assert result.untagged == "read only" and not result.tagged
    assert read_image(result.layout).files


def test_a_base_is_recorded_once_an_image_stands_on_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OutputError("the disk is full")

    recorded = f"kbuild/bases-{HOST.conda_subdir}.json"
    with monkeypatch.context() as patch:
        patch.setattr("kbuild.workflow.build.build", fail)
        with pytest.raises(OutputError, match="the disk is full"):
            build(world)
        patch.setattr("kbuild.workflow.build.whole_context", fail)
        with pytest.raises(OutputError, match="the disk is full"):
            render_context(world.request(), world.tools, output=world.tools.cache.parent / "context")
    assert (RUN_ID, recorded) not in world.store.files
    assert not list((world.tools.cache / "base-records").glob("*"))
    render_context(world.request(), world.tools, output=world.tools.cache.parent / "rendered")
    assert (RUN_ID, recorded) in world.store.files
    world.store.files.clear()
    shutil.rmtree(world.tools.cache / "base-records")
    build(world)
    assert (RUN_ID, recorded) in world.store.files


def test_without_record_nothing_is_written_to_the_store(world: World) -> None:
    result = build(world, Delivery(record=False))
    assert (world.store.tags, world.store.files, result.untagged, result.tagged) == ([], {}, None, False)


def test_the_same_again_is_taken_as_it_is_and_another_machine_makes_the_same(world: World) -> None:
    first = build(world)
    again = build(world)
    assert (first.reused, again.reused) == (False, True)
    elsewhere = build(world.with_cache("other-cache"))
    assert not elsewhere.reused
    assert first.digest == again.digest == elsewhere.digest
    assert first.layout != elsewhere.layout
    anew = build_image(world.request(), Delivery(), world.tools, reuse=False)
    assert not anew.reused
    assert anew.digest == first.digest


def replace_two(document: dict[str, Any]) -> None:
    """The lock with another wheel for its last package."""
    entry = document["package"][-1]
    wheel = Path(unquote(urlsplit(entry["url"]).path))
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.comment = b"another wheel"
    entry["hash"]["sha256"] = digest_file(wheel).hex


@pytest.mark.parametrize("what", ["model", "wheel", "base", "label"])
def test_another_input_is_another_image(world: World, what: str) -> None:
    before = build(world).digest
    given = {}
    if what == "model":
        (world.store.models[world.model] / "model.txt").write_bytes(b"another model\n")
    elif what == "wheel":
        edit_lock(world, replace_two)
    elif what == "base":
        manifest = json.loads((world.base / "index.json").read_bytes())["manifests"][0]
        changed = json.loads(blob(world.base, manifest)) | {"annotations": {"a": "b"}}
        data = json.dumps(changed).encode()
        import hashlib

        value = hashlib.sha256(data).hexdigest()
        (world.base / "blobs/sha256" / value).write_bytes(data)
        entry = manifest | {"digest": f"sha256:{value}", "size": len(data)}
        (world.base / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    else:
        given = {"labels": (("team", "till"),)}
    result = build(world, **given)
    assert not result.reused
    assert result.digest != before


@pytest.mark.parametrize(
    ("compression", "record", "asked"), [("zstd", True, 1), ("zstd", False, 0), ("gzip", False, 1)]
)
def test_what_compresses_is_looked_at_where_bytes_are_given_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch, compression: str, record: bool, asked: int
) -> None:
    """A proof is compared by its content too; zlib's stand-ins are told apart by their bytes alone."""
    looked: list[str] = []
    monkeypatch.setattr("kbuild.workflow.build.check_compressor", looked.append)
    build(world, Delivery(record=record), compression=compression)
    assert looked == [compression] * asked


@pytest.mark.parametrize("where", ["batch.model_image:build_model_image", "batch.modelpack:build_modelpack"])
def test_what_compresses_a_models_files_is_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    class Looked(Exception):
        pass

    def look(compression: str) -> None:
        raise Looked(compression)

    module, _, name = where.partition(":")
    work = getattr(import_module(f"kbuild.workflow.{module}"), name)
    monkeypatch.setattr(f"kbuild.workflow.{module}.check_compressor", look)
    world.store.down = True  # before anything is fetched
    request = SimpleNamespace(model=world.model, compression="gzip")
    with pytest.raises(Looked, match="gzip"):
        work(request, Delivery(output=tmp_path / "out.tar"), world.tools)


def test_two_platforms_become_one_index_and_the_tags_name_the_index(world: World) -> None:
    def add_other(document: dict) -> None:
        document["metadata"]["platforms"].append(OTHER.conda_subdir)
        document["metadata"]["content_hash"][OTHER.conda_subdir] = "0"
        document["package"] += [each | {"platform": OTHER.conda_subdir} for each in document["package"]]

    request = replace(world.request(), lock=replace(world.lock_request(HOST, OTHER), lockfile=None))
    edit_lock(world, add_other)
    from kbuild.environment.index.package_indexes import package_indexes
    from kbuild.environment.locking.wanted import fresh_inputs
    from kbuild.model.bundle import read_bundle

    indexes = package_indexes(run=world.tools.run, environ={})
    bundle = read_bundle(world.store.models[world.model])
    inputs = fresh_inputs(bundle, request.lock, indexes, cache=world.tools.cache, run=world.tools.run, environ={})
    edit_lock(
        world,
        lambda document: document["metadata"]["custom_metadata"].update(
            {key: str(min(inputs, key=str)) for key in document["metadata"]["custom_metadata"]}
        ),
    )
    request = replace(request, lock=replace(request.lock, lockfile=world.lockfile))
    # The base is for this machine's processor only: the other platform is refused before anything is built.
    with pytest.raises(BaseImageError, match=str(OTHER)):
        build_image(request, Delivery(), world.tools)
    assert not list((world.tools.cache / "images").rglob("index.json"))


def test_output_is_the_same_image_where_it_was_asked_for(world: World, tmp_path: Path) -> None:
    folder, archive = tmp_path / "out", tmp_path / "out.tar"
    result = build(world, Delivery(output=folder))
    assert result.layout == folder
    # No folder: what is laid out lies among the local images.
    assert (build(world, Delivery(output=archive)).layout / "oci-layout").is_file()
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    digests = {
        json.loads((place / "index.json").read_bytes())["manifests"][0]["digest"]
        for place in (folder, tmp_path / "unpacked")
    }
    assert digests == {str(result.digest)}


@pytest.mark.parametrize("what", ["lock", "render", "image"])
def test_ctrl_c_ends_each_of_them_with_the_programs_that_it_started(
    world: World, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tools that the work is done with are those that a signal ends."""
    given: list[Tools] = []

    def fetch(model: str, tools: Tools, workdir: Path, **_: object) -> None:
        given.append(tools)
        raise KeyboardInterrupt

    monkeypatch.setattr("kbuild.workflow.build.fetch_model", fetch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            {
                "lock": lambda: lock_model(world.model, world.lock_request(), world.tools, output=None),
                "render": lambda: render_context(world.request(), world.tools, output=tmp_path / "context"),
                "image": lambda: build(world),
            }[what]()
    finally:
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    (tools,) = given
    assert isinstance(tools.run, RunnerGroup)
    assert isinstance(tools.phases, Stoppable)


def test_a_filled_folder_is_not_overwritten(world: World, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "letter.txt").write_text("mine")
    for ask in (
        lambda: render_context(world.request(), world.tools, output=place),
        lambda: build(world, Delivery(output=place)),
    ):
        with pytest.raises(OutputError, match="mine"):
            ask()
        assert [path.name for path in place.iterdir()] == ["letter.txt"]
    (empty := tmp_path / "empty").mkdir()
    assert (render_context(world.request(), world.tools, output=empty).path / "Dockerfile").is_file()


def test_a_file_is_not_taken_for_a_new_folder(world: World, tmp_path: Path) -> None:
    """It is told before the store is asked for anything."""
    (letter := tmp_path / "letter.txt").write_text("mine")
    world.store.down = True
    with pytest.raises(OutputError, match=r"letter\.txt is there already"):
        render_context(world.request(), world.tools, output=letter)
    assert letter.read_text() == "mine"


def test_what_is_a_link_in_the_context_is_one_where_it_is_rendered(tmp_path: Path) -> None:
    """Libraries are links to each other: as files they would be several times as large, and another image."""
    source = tmp_path / "context"
    source.mkdir()
    (source / "libz.so.1.3").write_bytes(b"library")
    (source / "libz.so.1").symlink_to("libz.so.1.3")
    _copy(source, tmp_path / "rendered", Silent())
    assert (tmp_path / "rendered/libz.so.1").readlink() == Path("libz.so.1.3")
    assert not (tmp_path / "rendered/libz.so.1.3").is_symlink()


def test_a_lock_that_cannot_be_written_where_it_is_to_be_is_told(world: World, tmp_path: Path) -> None:
    (place := tmp_path / "locks").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*locks: Is a directory"):
        lock_model(world.model, world.lock_request(), world.tools, output=place)


def test_a_users_model_that_changes_while_it_is_built_is_not_built(world: World) -> None:
    """Its files are not a copy of ours: each is compared with what was read before."""
    model = world.store.models[world.model]
    (model / "model.txt").write_bytes(b"no layer is there of this\n")

    @contextmanager
    def phases(phase: str) -> Iterator[Progress]:
        if phase == "stage":
            (model / "model.txt").write_bytes(b"edited meanwhile\n")
        yield Silent()

    with pytest.raises(InvalidModel, match=r"model\.txt"):
        build_image(world.request(), Delivery(), replace(world.tools, phases=phases))
    assert not any((world.tools.cache / "images").rglob("index.json"))


def test_what_is_rendered_is_what_is_built(world: World, tmp_path: Path) -> None:
    context = render_context(world.request(), world.tools, output=tmp_path / "context")
    dockerfile = (context.path / "Dockerfile").read_text()
    assert "RUN " not in dockerfile
    assert (context.path / "model/opt/model/model.txt").read_bytes() == MODEL["model.txt"]
    assert (context.path / f"dependencies/{SITE}/two.py").read_text() == WHEELS["two"]["two.py"]
    image = read_image(build(world).layout)
    copied = {
        str(path.relative_to(folder))
        for folder in context.path.iterdir()
        if folder.is_dir()
        for path in folder.rglob("*")
        if not path.is_dir()
    }
    assert copied <= set(image.files)


def test_load_needs_this_machines_platform_before_anything_else(world: World) -> None:
    lock = replace(world.lock_request(), platforms=(OTHER, Platform("linux", "riscv64")))
    world.store.down = True  # nothing is asked
    with pytest.raises(PlatformError, match=str(HOST)) as caught:
        build_image(world.request(lock=lock), Delivery(load=True), world.tools)
    assert "--output" in str(caught.value.hint)
    # Wherever it stands among them.
    lock = replace(world.lock_request(), platforms=(Platform("linux", "386"), HOST))
    with pytest.raises(TrackingUnavailable):
        build_image(world.request(lock=lock), Delivery(load=True), world.tools)
    # Docker loads the image of another platform where it is the only one: this one goes on, to a lock that lacks it.
    with pytest.raises(KbuildError) as alone:
        build(world, Delivery(load=True), lock=world.lock_request(OTHER))
    assert "--load" not in alone.value.message


def test_a_package_that_asks_for_a_newer_c_library_is_refused_before_the_build(bare_world: World) -> None:
    def need(version: str) -> None:
        edit_lock(bare_world, lambda document: document["package"][0].update(dependencies={"__glibc": version}))

    need(">=99.1")
    with pytest.raises(BaseImageError, match=r"99\.1"):
        build(bare_world)
    assert not list((bare_world.tools.cache / "images").rglob("index.json"))
    assert not list((bare_world.tools.cache / "downloads").rglob("*.whl"))
    have = os.confstr("CS_GNU_LIBC_VERSION").split()[1]  # type: ignore[union-attr]
    need(f">={have}")
    assert build(bare_world).layout.is_dir()


def test_a_package_with_other_bytes_than_the_locks_is_refused(bare_world: World) -> None:
    (wheel,) = (bare_world.folder / "index").glob("one-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(HashMismatch, match="one"):
        build(bare_world)
    assert not list((bare_world.tools.cache / "images").rglob("index.json"))
    assert bare_world.store.tags == []


def test_a_lock_of_other_inputs_is_stale(world: World) -> None:
    conda = world.store.models[world.model] / "conda.yaml"
    conda.write_text(conda.read_text().replace("two==1", "two==2"), "utf-8")
    with pytest.raises(LockfileStale):
        build(world)


def test_a_model_that_is_not_there_and_a_name_that_it_cannot_have(world: World) -> None:
    with pytest.raises(ModelNotFound):
        build(world, model=f"runs:/{'c' * 32}/model")
    with pytest.raises(InvalidReference, match="version"):
        build(world, Delivery(tag="x:{version}"))
    assert world.store.tags == []
    assert not list(world.tools.cache.glob("images/*")), "it is told before the work"


def test_an_alias_is_the_version_that_it_had_when_the_build_began(world: World) -> None:
    model = world.store.models[world.model]
    world.store.aliases = {"prod": "3"}
    world.store.models["models:/till/3"] = model
    result = build(world, Delivery(tag="till:{version}"), model="models:/till@prod")
    assert result.reference == f"till@{result.digest}"
    images = LocalImages(world.tools.cache / "images")
    assert images.by_reference(ImageReference.parse("till:3")) is not None
    (told,) = world.store.tags
    assert told[1]["kbuild.image"] == result.reference


def test_locking_takes_the_given_lock_and_writes_it_where_asked(world: World, tmp_path: Path) -> None:
    locked = lock_model(world.model, world.lock_request(), world.tools, output=tmp_path / "here.yml")
    assert locked.origin == "given"
    assert (tmp_path / "here.yml").read_bytes() == world.lockfile.read_bytes()


def test_the_cache_stays_within_its_limit(world: World) -> None:
    def size() -> int:
        files = {path.stat().st_ino: path.stat() for path in world.tools.cache.rglob("*") if path.is_file()}
        return sum(each.st_size for each in files.values())

    build(world)
    limit = size() + 200_000
    tools = replace(world.tools, cache_limit=limit)
    for number in range(4):
        weights = world.store.models[world.model] / "artifacts/weights.bin"
        weights.write_bytes(random.Random(number).randbytes(150_000))  # noqa: S311  any bytes
        result = build_image(world.request(), Delivery(), replace(tools, shared=Shared()))
        assert size() <= limit
        assert read_image(result.layout).data("opt/model/artifacts/weights.bin") == weights.read_bytes()


def test_two_models_of_one_command_do_not_get_one_name(world: World) -> None:
    build_image(world.request(), Delivery(tag="shared:1"), world.tools)
    (world.store.models[world.model] / "model.txt").write_bytes(b"another model\n")
    with pytest.raises(InvalidReference, match="shared:1"):
        build_image(world.request(), Delivery(tag="shared:1"), world.tools)


def test_the_interpreter_in_the_lock_is_the_models(bare_world: World) -> None:
    assert VERSION in str(yaml.safe_load(bare_world.lockfile.read_text("utf-8"))["package"][0]["version"])
    shutil.rmtree(bare_world.folder / "channel")
    with pytest.raises(Exception, match="python") as caught:
        build(bare_world)
    assert "Traceback" not in str(caught.value)


def test_what_is_built_already_is_found_without_a_client_of_the_web(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(world)

    users = [name for name, module in list(sys.modules.items()) if vars(module).get("requests") is requests]
    assert "kbuild.environment.index.download" in users
    for name in [*users, "requests"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert build(world).image == built.image


def test_what_to_type_next_names_the_image_as_it_can_be_named(world: World) -> None:
    from kbuild.cli.image import next_commands, summary

    result = build(world)
    told = summary(result, {"lock": 1.0, "build": 0.5})
    size = sum(path.stat().st_size for path in (result.layout / "blobs" / "sha256").iterdir())
    assert told.startswith(f"{size / 1e6:.0f} MB for {HOST}, built by the native engine, in 1.5 s; kept on this")
    short = f"sha256:{result.digest.hex[:12]}"
    assert [*next_commands(result)] == [f"kbuild {verb} {short}" for verb in ("verify", "run")]
    assert LocalImages(world.tools.cache / "images").beginning_with(short) == result.digest
    tagged = build(world, Delivery(tag="churn:7"))
    assert [*next_commands(tagged)] == [f"kbuild {verb} churn:7" for verb in ("verify", "run")]
    pushed = replace(result, pushed="registry.example/churn@sha256:1", reused=True)
    assert [*next_commands(pushed)][-1] == "docker run --rm -p 8080:8080 registry.example/churn@sha256:1"
    assert "pushed as registry.example/churn@sha256:1" in summary(pushed, {}) and " s;" not in summary(pushed, {})


def test_on_a_base_that_is_known_a_newer_c_library_is_refused_all_the_same(world: World, tmp_path: Path) -> None:
    """The first build looks at a new base; a later one of another image at what is locked by now."""
    build(world)
    edit_lock(world, lambda document: document["package"][0].update(dependencies={"__glibc": ">=99.1"}))
    with pytest.raises(BaseImageError, match=r"99\.1"):
        build(world, labels=(("team", "another"),))
    with pytest.raises(BaseImageError, match=r"99\.1"):
        render_context(world.request(), world.tools, output=tmp_path / "context")
    assert not (tmp_path / "context").exists()


def test_for_a_base_that_is_known_and_cannot_run_them_no_package_is_fetched(world: World) -> None:
    build(world)
    edit_lock(world, lambda document: document["package"][0].update(dependencies={"__glibc": ">=99.1"}))
    other = world.with_cache("other machine")
    with pytest.raises(BaseImageError, match=r"99\.1"):
        build(other)
    assert not list((other.tools.cache / "downloads").rglob("*.whl"))


def test_what_makes_it_large_is_told_before_it_is_built(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.workflow.large._LARGE", 100)  # bytes
    build(world)
    told = [note for note in world.heard.notes if note.startswith("size: ")]
    assert {note.split(":")[1].strip() for note in told} == {"one", "two"}
    assert max(map(world.heard.notes.index, told)) < world.heard.notes.index("build:")


def test_for_several_platforms_all_their_plans_are_one_that_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a queue's workers tell each other's jobs by: neither a part of it nor the order makes another job of it."""
    told: list[str] = []

    class Seen(Open):
        def planned(self, plan: Digest) -> None:
            told.append(str(plan))
            raise InterruptedError

    def ask(*plans: tuple[Platform, bytes]) -> str:
        digests = {
            platform: SimpleNamespace(plan=SimpleNamespace(digest=digest_bytes(what))) for platform, what in plans
        }
        with monkeypatch.context() as patch:
            patch.setattr("kbuild.workflow.build.lock_environment", lambda *_: None)
            patch.setattr("kbuild.workflow.build.prepare", lambda _r, _b, _l, platform, *_: digests[platform])
            request = world.request(lock=world.lock_request(*digests))
            with pytest.raises(InterruptedError):
                build_image(request, Delivery(), world.tools, gates=Seen())
        return told[-1]

    both = ask((HOST, b"one"), (OTHER, b"two"))
    assert both == ask((OTHER, b"two"), (HOST, b"one"))
    assert len({both, ask((HOST, b"one")), ask((HOST, b"one"), (OTHER, b"three")), ask((OTHER, b"two"))}) == 4


def test_what_another_engine_built_is_not_taken_for_this_ones(world: World) -> None:
    assert not build(world, engine="auto").reused
    assert not build(world, engine="native").reused
    assert build(world, engine="native").reused


@pytest.mark.parametrize("name", ["conda.yaml", "requirements.txt"])
def test_a_model_with_a_password_in_it_is_not_built(world: World, name: str) -> None:
    place = world.store.models[world.model] / name
    before = place.read_text("utf-8") if place.exists() else ""
    place.write_text(f"{before}# --extra-index-url https://me:secret@index.example/simple\n", "utf-8")
    for give in (
        lambda: build(world),
        lambda: render_context(world.request(), world.tools, output=world.folder / "rendered"),
        lambda: pack_model(world.request(), world.tools, output=world.folder / "packed.tar"),
    ):
        with pytest.raises(InvalidModel, match="credentials") as caught:
            give()
        assert "secret" not in str(caught.value)
    assert not list((world.tools.cache / "images").rglob("index.json"))
    assert not [*world.folder.glob("rendered"), *world.folder.glob("packed*")]


def test_a_built_image_waits_but_a_moment_for_an_index_that_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.workflow.build._PATIENCE", 0.05)
    stopped: list[bool] = []

    def find(*_: object, stop: threading.Event, **__: object) -> Withdrawn:
        stopped.append(stop.wait(5))
        return Withdrawn(unasked="the index does not answer")

    monkeypatch.setattr("kbuild.environment.index.withdrawn.find_withdrawn", find)
    result = build_image(world.request(), Delivery(record=False), world.tools, reuse=False)
    assert stopped == [True] and result.yanked == ()
    assert "build: whether a release was yanked is not known: the index does not answer" in world.heard.notes


def test_indexes_are_asked_for_what_is_built_and_of_each_platform(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def find(packages: Any, *_: object, **__: object) -> Withdrawn:
        asked.append({str(getattr(each, "name", each)) for each in packages})
        return Withdrawn(releases=("one 1 is yanked",))

    monkeypatch.setattr("kbuild.environment.index.withdrawn.find_withdrawn", find)
    assert build(world).yanked == ("one 1 is yanked",) and asked == [{"python", "one", "two"}]
    assert build(world).yanked == () and len(asked) == 1, "it was there"
    locked: Any = SimpleNamespace(
        lockfile=SimpleNamespace(for_platform=lambda platform: [f"a package of {platform}"]), environ={}, indexes=None
    )
    with _asking_of_yanked(locked, [HOST, OTHER], world.tools):
        pass
    assert asked[-1] == {f"a package of {HOST}", f"a package of {OTHER}"}
