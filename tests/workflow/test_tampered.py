"""Images with one thing changed: each is found and named once, with a remedy; the one that was built is clean."""

from __future__ import annotations

import gzip
import hashlib
import json
import marshal
import os
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tampering import Opened, tamper
from world import HOST, RUN_ID, SHORT, World, make_world

from kbuild.audit.checks.drift import DriftCheck
from kbuild.audit.checks.image import ImageCheck
from kbuild.audit.finding import Finding, Unchecked
from kbuild.audit.lockview import view_lock
from kbuild.audit.policy import Policy
from kbuild.audit.report.report import AuditReport
from kbuild.audit.subject import Subject, read_trained
from kbuild.errors import InvalidModel
from kbuild.image.engine import BuiltImage
from kbuild.image.store.image_index import write_index
from kbuild.image.store.pack import image_in
from kbuild.model.bundle import read_bundle
from kbuild.plan.render import Template
from kbuild.platform import Platform
from kbuild.progress import Silent
from kbuild.workflow.audit.auditor import Auditor
from kbuild.workflow.audit.images import read_image
from kbuild.workflow.audit.planned import find_planned
from kbuild.workflow.audit.replanning import Sources
from kbuild.workflow.audit.request import AuditRequest
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery

PYTHON = f"opt/env/bin/python{SHORT}"
STDLIB = f"opt/env/lib/python{SHORT}"
SITE = f"{STDLIB}/site-packages"
SERVER = "opt/kbuild/kbuild/serving/__main__.py"
RUNTIME, MODEL = "COPY runtime/ /", "COPY model/ /"
OTHER = "arm64" if HOST.architecture == "amd64" else "amd64"


class Audits:
    """Audits images of one world with one auditor."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._request = AuditRequest(
            policy=Policy(),
            today=date(2026, 11, 1),
            fail_on="low",
            lock=world.lock_request(),
            lockfile=world.lockfile,
            offline=True,
            record=False,
        )

    def report(self, image: BuiltImage) -> AuditReport:
        return Auditor(self._request, self._world.tools, environ={}).audit_image(image, "IMAGE").report

    def checked(self, image: BuiltImage, folder: Path) -> tuple[list[Finding], list[Unchecked]]:
        """What the checks of images say, without all that is the same for each of them."""
        world = self._world
        # Beside the folder: of layers that one image has of another it is remembered what they hold.
        read, model = read_image(image, folder / "model", Silent(), cache=folder.parent / "read")
        bundle = None if model is None else read_bundle(model)
        lock = view_lock(world.lockfile.read_bytes(), source="test")
        tags = {} if bundle is None else world.store.read_run(RUN_ID).tags
        sources = Sources(bundle=bundle, lock=lock, tags=tags, template=Template(), labels={})
        planned = find_planned(image, read.facts.layers, sources, world.tools, Silent(), read=read.read)
        subject = Subject(
            reference="IMAGE", kind="image", lock=lock, bundle=bundle, image=read.facts, planned=planned,
            trained=None if bundle is None else read_trained(bundle),
        )  # fmt: skip
        results = [check.run(subject) for check in (ImageCheck(), DriftCheck())]
        return [f for each in results for f in each.findings], [u for each in results for u in each.unchecked]


@dataclass(frozen=True)
class Built:
    world: World
    image: BuiltImage
    here: Audits


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    from pip_settings import asked_once

    with asked_once():
        world = make_world(tmp_path_factory.mktemp("tampered"))
        image = build_image(world.request(), Delivery(), world.tools).image
        yield Built(world, image, Audits(world))


def config(edit: Callable[[dict[str, object]], object]) -> Callable[[Opened], object]:
    return lambda image: edit(image.config["config"])


def env(*pairs: str) -> Callable[[Opened], object]:
    return config(lambda c: c["Env"].extend(pairs))  # type: ignore[attr-defined]


def extra(name: str, data: bytes = b"x", **changes: object) -> Callable[[Opened], object]:
    """One more layer on top."""
    return lambda image: image.add(image.new_layer(), name, data, **changes)


def planted(layer: str, name: str, data: bytes = b"x", **changes: object) -> Callable[[Opened], object]:
    """One more member of a layer that is there."""
    return lambda image: image.add(image.named(layer), name, data, **changes)


def other_pyc(image: Opened) -> None:
    path = f"{STDLIB}/__pycache__/config.cpython-{SHORT.replace('.', '')}.pyc"
    (data,) = (data for info, data in image.layers[image.layer_with(path)] if info.name == path)
    image.change(path, data[:16] + marshal.dumps(compile("import os", "config.py", "exec")))


def swapped(image: Opened) -> None:
    one, other = image.named(RUNTIME), image.named(MODEL)
    for each in (image.layers, image.manifest["layers"], image.config["rootfs"]["diff_ids"], image.config["history"]):
        each[one], each[other] = each[other], each[one]


def linked_folder(image: Opened) -> None:
    number = image.named(RUNTIME)
    image.layers[number] = [
        each for each in image.layers[number] if not each[0].name.startswith("opt/kbuild/kbuild/serving")
    ]
    image.add(number, "opt/kbuild/kbuild/serving", type=tarfile.SYMTYPE, linkname="/tmp/serving", mode=0o777)


def lost(image: Opened) -> None:
    number = image.named(RUNTIME)
    for each in (image.layers, image.manifest["layers"], image.config["rootfs"]["diff_ids"], image.config["history"]):
        del each[number]


TAMPERED: dict[str, tuple[Callable[[Opened], object], str, str]] = {
    # What was done: how, the finding, and what its place or evidence names.
    "another interpreter": (lambda i: i.change(PYTHON, b"#!/bin/sh\nexec evil\n"), "image-layer", PYTHON),
    "another server": (lambda i: i.change(SERVER, b"evil"), "image-layer", SERVER),
    "another standard library": (lambda i: i.change(f"{STDLIB}/config.py", b"evil"), "image-layer", "config.py"),
    "another package file": (lambda i: i.change(f"{SITE}/two.py", b"VALUE = 2\n"), "image-layer", "two.py"),
    "another RECORD with it": (lambda i: i.change(f"{SITE}/one-1.dist-info/RECORD", b""), "image-layer", "RECORD"),
    "another model file": (lambda i: i.change("opt/model/artifacts/weights.bin", b"evil"), "drift-model", "model"),
    "another base file": (lambda i: i.change("lib/x86_64-linux-gnu/libm.so.6", b"evil"), "image-layer", "libm.so.6"),
    "a base layer more": (lambda i: i.add(i.new_layer(at=1), "etc/shadow", b"::"), "image-layer-added", "etc/shadow"),
    "a package file less": (lambda i: i.remove(f"{SITE}/one/words.txt"), "image-layer", "words.txt"),
    "a layer less": (lost, "image-layer-missing", "runtime"),
    "layers in another order": (swapped, "image-layer", "model"),
    "another pyc": (other_pyc, "image-layer", "config.cpython"),
    "a pyc without a source": (planted(RUNTIME, "opt/kbuild/evil.pyc"), "image-layer", "evil.pyc"),
    "a pth": (planted("COPY dependencies", f"{SITE}/evil.pth", b"import os"), "image-layer", "evil.pth"),
    "a pth in one more layer": (extra(f"{SITE}/evil.pth", b"import os"), "image-layer-added", "evil.pth"),
    "sitecustomize": (extra("opt/kbuild/sitecustomize.py"), "image-layer-added", "executed at each start"),
    "usercustomize": (planted(RUNTIME, f"{SITE}/usercustomize.py"), "image-layer", "executed at each start"),
    "a preloaded library": (extra("etc/ld.so.preload", b"/tmp/evil.so"), "image-layer-added", "ld.so.preload"),
    "pyvenv.cfg": (extra("opt/env/pyvenv.cfg", b"home=/tmp"), "image-layer-added", "pyvenv.cfg"),
    "a module over a module": (extra(SERVER), "image-layer-added", "takes the place"),
    "a module in front of a module": (extra("opt/kbuild/json.py"), "image-layer-added", "json.py"),
    "a whiteout": (extra(f"{SITE}/.wh.two.py", b""), "image-layer-added", "is hidden"),
    "an opaque folder": (extra("opt/model/.wh..wh..opq", b""), "image-whiteout", "/opt/model"),
    "a link for a folder": (linked_folder, "image-layer", "serving"),
    "a link in one more layer": (
        extra("opt/kbuild", b"", type=tarfile.SYMTYPE, linkname="/tmp"), "image-layer-added", "(link to /tmp)",
    ),
    "a hard link": (
        extra("opt/kbuild/os.py", b"", type=tarfile.LNKTYPE, linkname="opt/model/x"), "image-layer-added", "hard link",
    ),
    "setuid": (lambda i: i.change(PYTHON, mode=0o4755), "image-layer", "setuid"),
    "a setuid file more": (extra("usr/bin/su", mode=0o4755), "image-layer-added", "setuid"),
    "capabilities": (
        extra("usr/bin/ping", pax_headers={"SCHILY.xattr.security.capability": "x"}), "image-layer-added", "setcap",
    ),
    "another owner": (lambda i: i.change(PYTHON, uid=65532), "image-layer", "owner"),
    "a file for everybody": (lambda i: i.change("opt/model/model.txt", mode=0o666), "image-layer", "every user"),
    "a device": (extra("dev/sda", b"", type=tarfile.BLKTYPE), "image-layer-added", "device"),
    "a pipe": (planted(MODEL, "opt/model/pipe", b"", type=tarfile.FIFOTYPE), "image-layer", "device or a pipe"),
    "another entrypoint": (config(lambda c: c.update(Entrypoint=["/bin/sh"])), "image-entrypoint", "entrypoint"),
    "a command": (config(lambda c: c.update(Cmd=["-c", "evil"])), "image-entrypoint", "cmd"),
    "root": (config(lambda c: c.update(User="0:0")), "image-user", "user"),
    "no user": (config(lambda c: c.pop("User")), "image-user", "user"),
    "LD_PRELOAD": (env("LD_PRELOAD=/tmp/evil.so"), "image-env", "env LD_PRELOAD"),
    "PYTHONSTARTUP": (env("PYTHONSTARTUP=/tmp/evil.py"), "image-env", "env PYTHONSTARTUP"),
    "PYTHONPATH": (env("PYTHONPATH=/tmp"), "image-env", "env PYTHONPATH"),
    "a variable twice": (env("HOME=/tmp"), "image-env", "env"),
    "a variable less": (config(lambda c: c["Env"].remove("PYTHONNOUSERSITE=1")), "image-env", "env PYTHONNOUSERSITE"),  # type: ignore[attr-defined]
    "a label": (config(lambda c: c["Labels"].update(team="evil")), "image-label", "label team"),  # type: ignore[attr-defined]
    "another title": (
        config(lambda c: c["Labels"].update({"org.opencontainers.image.title": "x"})), "image-label", "image.title",  # type: ignore[attr-defined]
    ),
    "another port": (config(lambda c: c.update(ExposedPorts={"22/tcp": {}})), "image-port", "port"),
    "a volume": (config(lambda c: c.update(Volumes={"/opt/model": {}})), "image-config", "volumes"),
    "a working directory": (config(lambda c: c.update(WorkingDir="/tmp")), "image-config", "workingdir"),
    "another healthcheck": (
        config(lambda c: c["Healthcheck"].update(Test=["CMD", "x"])), "image-healthcheck", "healthcheck",  # type: ignore[attr-defined]
    ),
    "another signal": (config(lambda c: c.update(StopSignal="SIGKILL")), "image-config", "stopsignal"),
    "another base digest": (
        config(lambda c: c["Labels"].update({"io.kbuild.base.digest": f"sha256:{'0' * 64}"})), "image-base", "base",  # type: ignore[attr-defined]
    ),
    "another architecture": (lambda i: i.config.update(architecture=OTHER), "image-platform", OTHER),
    "another time": (lambda i: i.config.update(created="2030-01-01T00:00:00Z"), "image-config", "created"),
    "an annotation": (lambda i: i.manifest["annotations"].update(evil="1"), "image-annotation", "annotation evil"),
    "another address of a layer": (
        lambda i: i.manifest["layers"][0].update(urls=["https://evil.example/x"]), "image-manifest", "layers[0].urls",
    ),
    "note of a layer": (
        lambda i: i.manifest["layers"][0].update(annotations={"containerd.io/snapshot/stargz/toc.digest": "sha256:0"}),
        "image-manifest", "layers[0].annotations",
    ),
    "note of the config": (
        lambda i: i.manifest["config"].update(annotations={"a": "b"}), "image-manifest", "config.annotations",
    ),
    "field of nobody": (lambda i: i.manifest.update({"x-run": "sh"}), "image-manifest", "x-run"),
    "what it is about": (lambda i: i.manifest.update(subject=i.manifest["config"]), "image-manifest", "subject"),
    "Docker's name for the config": (
        lambda i: i.manifest["config"].update(mediaType="application/vnd.docker.container.image.v1+json"),
        "image-manifest", "config.mediaType",
    ),
    "another kind of file system": (lambda i: i.config["rootfs"].update(type="evil"), "image-config", "rootfs"),
    "another history": (lambda i: i.config["history"][1].update(created_by="evil"), "image-config", "history"),
}  # fmt: skip


@pytest.mark.slow
def test_the_image_that_was_built_is_compared_and_clean(built: Built) -> None:
    report = built.here.report(built.image)
    # Its packages come from folders, which is so of the little world itself.
    assert {each.id for each in report.findings} == {"lock-path"}
    assert not [each for each in report.unchecked if each.check == "image"]
    assert dict(report.checks)["image"] == len(built.image.layers) + 1
    # Of what no lock names the bytes, the reader is told what it was compared with.
    assert any("kbuild verify --rebuild" in note for note in report.notes)


@pytest.mark.slow
def test_what_was_changed_is_named_once(built: Built, tmp_path: Path) -> None:
    told = {}
    for number, (done, (edit, id, named)) in enumerate(TAMPERED.items()):
        image = tamper(built.image, tmp_path / str(number), edit)
        findings, _ = built.here.checked(image, tmp_path / f"of {number}")
        text = " ".join(f"{each.where} {each.evidence}" for each in findings)
        if [each.id for each in findings] != [id] or named not in text or "kbuild image" not in findings[0].remedy:
            told[done] = [(each.id, each.where, each.evidence) for each in findings]
    assert told == {}


@pytest.mark.slow
def test_a_model_file_whose_name_is_no_text_is_refused(built: Built, tmp_path: Path) -> None:
    image = tamper(built.image, tmp_path / "image", extra("opt/model/\udcff"))
    with pytest.raises(InvalidModel, match="not UTF-8"):
        built.here.checked(image, tmp_path / "of it")


FRAME = struct.pack("<II", 0x184D2A50, 4) + b"evil"


def in_a_header(data: bytes) -> bytes:
    """Packed by gzip, with an extra field."""
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H", 4) + b"evil" + gzip.compress(plain, mtime=0)[10:]


SKIPPED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a frame before": ("zstd", lambda data: FRAME + data),
    "a frame behind": ("zstd", lambda data: data + FRAME),
    "an extra field": ("gzip", in_a_header),
}


@pytest.mark.parametrize("how", SKIPPED)
def test_bytes_that_every_reader_skips_are_told(built: Built, tmp_path: Path, how: str) -> None:
    compression, packed = SKIPPED[how]

    def edit(image: Opened) -> None:
        descriptor = image.manifest["layers"][image.named(RUNTIME)]
        data = packed((blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes())
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        media_type = f"application/vnd.oci.image.layer.v1.tar+{compression}"
        descriptor.update(digest=f"sha256:{digest}", size=len(data), mediaType=media_type)

    blobs = tmp_path / "image" / "blobs" / "sha256"
    image = tamper(built.image, tmp_path / "image", edit)
    for _ in range(2):  # what is remembered of it as well
        findings, _ = built.here.checked(image, tmp_path / "of it")
        assert [(each.id, "skips" in each.evidence) for each in findings] == [("image-manifest", True)]


def top(edit: Callable[[dict[str, Any]], object], name: str = "index.json") -> Callable[[Path], object]:
    def change(layout: Path) -> None:
        value = json.loads((layout / name).read_text("utf-8"))
        edit(value)
        (layout / name).write_text(json.dumps(value), "utf-8")

    return change


def entry(**changes: Any) -> Callable[[Path], object]:
    return top(lambda index: index["manifests"][0].update(changes))


TOPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a note of the index": (top(lambda index: index.update(annotations={"x": "y"})), "index.json annotations"),
    "what the index is about": (top(lambda index: index.update(subject={"a": 1})), "index.json subject"),
    "a note of the image": (entry(annotations={"run": "sh"}), "manifests[0].annotations.run"),
    "a note that is no name": (entry(annotations={"org.opencontainers.image.ref.name": "$(sh)"}), "annotations.org"),
    "another address": (entry(urls=["https://evil.example/x"]), "manifests[0].urls"),
    "data of the image": (entry(data="e30="), "manifests[0].data"),
    "a feature": (entry(platform={"os": "linux", "architecture": HOST.architecture, "os.features": ["x"]}), "features"),
    "another config for docker": (
        top(lambda images: images[0].update(Config="blobs/sha256/" + "0" * 64), "manifest.json"), "manifest.json [0]",
    ),
    "a layer less for docker": (top(lambda images: images[0]["Layers"].pop(), "manifest.json"), "manifest.json [0]"),
    "an image more for docker": (top(lambda images: images.append({}), "manifest.json"), "manifest.json [1]"),
}  # fmt: skip


@pytest.mark.slow
def test_what_a_layout_says_beside_its_image_is_told(built: Built, tmp_path: Path) -> None:
    told = {}
    for number, (done, (change, named)) in enumerate(TOPS.items()):
        shutil.copytree(built.image.layout, tmp_path / str(number), copy_function=os.link)
        for name in ("index.json", "manifest.json"):
            data = (tmp_path / str(number) / name).read_bytes()
            (tmp_path / str(number) / name).unlink()
            (tmp_path / str(number) / name).write_bytes(data)
        change(tmp_path / str(number))
        findings, _ = built.here.checked(image_in(tmp_path / str(number), engine="unknown"), tmp_path / f"of {number}")
        if [each.id for each in findings] != ["image-manifest"] or named not in findings[0].evidence:
            told[done] = [(each.id, each.evidence) for each in findings]
    assert told == {}


def test_notes_that_programs_write_are_none(built: Built, tmp_path: Path) -> None:
    """As docker save, buildx, containerd and skopeo have them."""
    shutil.copytree(built.image.layout, tmp_path / "image")
    notes = {
        "org.opencontainers.image.ref.name": "1.0",
        "io.containerd.image.name": "registry.example:5000/team/till:1.0",
        "org.opencontainers.image.created": "2026-11-30T11:00:00Z",
        "containerd.io/distribution.source.registry.example": "team/till",
    }
    entry(annotations=notes, platform={"os": "linux", "architecture": HOST.architecture})(tmp_path / "image")
    assert built.here.checked(image_in(tmp_path / "image", engine="unknown"), tmp_path / "of it")[0] == []


def test_the_other_images_of_a_layout_are_not_looked_at_and_that_is_told(built: Built, tmp_path: Path) -> None:
    there = tamper(built.image, tmp_path / "other", lambda image: image.config.update(architecture=OTHER))
    both = write_index({HOST: built.image, Platform("linux", OTHER): there}, tmp_path / "both")
    findings, unchecked = built.here.checked(image_in(both.layout, engine="unknown"), tmp_path / "of it")
    assert findings == []
    assert [(each.where, each.remedy) for each in unchecked if each.check == "image"] == [
        (f"image linux/{OTHER}", f"audit each: kbuild audit IMAGE --platform linux/{OTHER}")
    ]


@pytest.mark.slow
def test_where_nothing_was_built_they_are_told_by_their_looks_or_not_proved(built: Built, tmp_path: Path) -> None:
    """On a machine with another cache: what cannot be compared is incomplete, and says how to compare it."""
    there = Audits(built.world.with_cache("another"))
    findings, (unproved, *_) = there.checked(built.image, tmp_path / "of the clean one")
    assert findings == [] and "kbuild verify --rebuild IMAGE" in unproved.remedy
    for number, (done, (edit, _, _)) in enumerate(TAMPERED.items()):
        image = tamper(built.image, tmp_path / str(number), edit)
        findings, unchecked = there.checked(image, tmp_path / f"of {number}")
        # At the least, that the run names another image.
        assert findings and [each for each in unchecked if each.check == "image"], done


def label(name: str, value: str | None) -> Callable[[Opened], object]:
    def edit(image: Opened) -> None:
        labels = image.config["config"]["Labels"]
        labels.pop(name) if value is None else labels.update({name: value})

    return edit


def test_labels_that_are_not_kbuilds_are_believed_of_an_image_that_the_run_names(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that built none of them, of a base that adds none: nobody else knows better."""
    monkeypatch.setattr(built.world.store, "files", {})

    def edit(image: Opened) -> None:
        label("org.opencontainers.image.base.digest", None)(image)
        label("team", "till")(image)

    image = tamper(built.image, tmp_path / "image", edit)
    there = Audits(built.world.with_cache("labels"))

    def labelled(tags: dict[str, str]) -> list[str]:
        monkeypatch.setattr(built.world.store, "tags", [(RUN_ID, tags, None)])
        findings, _ = there.checked(image, tmp_path / f"of {len(list(tmp_path.iterdir()))}")
        return [each.where for each in findings if "team" in each.where]

    assert labelled({"kbuild.image_digest": str(built.image.digest)}) == ["label team"]
    assert labelled({"kbuild.image_digest": str(image.digest)}) == []
    assert labelled({}) == []


UNCOMPARED: dict[str, tuple[Callable[[Opened], object], str]] = {
    "another release": (label("io.kbuild.version", "0.0.9"), "kbuild 0.0.9 built it, this is "),
    "no release": (label("io.kbuild.version", None), "kbuild of an unknown version built it, this is "),
    "another model": (label("io.kbuild.model.digest", f"sha256:{'1' * 64}"), "the model that it names (sha256:1111"),
    "another lock": (label("io.kbuild.lock.digest", f"sha256:{'2' * 64}"), "the lock that it names (sha256:2222"),
    "a base without a digest": (label("io.kbuild.base.digest", "newest"), "base.digest is not a digest: 'newest'"),
}
"""Of what it says of itself: what was done, and why it cannot be compared then."""


def test_what_cannot_be_compared_says_why(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nor does a run say which bases were used for the model.
    monkeypatch.setattr(built.world.store, "files", {})
    there = Audits(built.world.with_cache("a third"))
    told = {}
    for number, (done, (edit, why)) in enumerate(UNCOMPARED.items()):
        _, unchecked = there.checked(tamper(built.image, tmp_path / str(number), edit), tmp_path / f"of {number}")
        reasons = [each.reason for each in unchecked if each.check == "image"]
        if not any(why in each for each in reasons):
            told[done] = reasons
    assert told == {}


def test_on_a_machine_that_has_nothing_of_it_that_is_told(built: Built, tmp_path: Path) -> None:
    _, unchecked = Audits(built.world.with_cache("nothing")).checked(built.image, tmp_path / "of it")
    reasons = [each.reason for each in unchecked if each.check == "image"]
    assert any("how its packages are split into layers is not known here" in each for each in reasons), reasons


def test_on_a_machine_that_has_the_packages_but_not_the_image_that_is_told(built: Built, tmp_path: Path) -> None:
    """Its layers are those of a base that others made: what is in the cache alone does not prove them."""
    there = built.world.with_cache("packages alone")
    left_out = shutil.ignore_patterns("images", "work-*")
    shutil.copytree(built.world.tools.cache, there.tools.cache, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    findings, unchecked = Audits(there).checked(built.image, tmp_path / "of it")
    assert findings == [] and [each.reason for each in unchecked if each.check == "image"]
    assert any("this machine has not built it" in each.reason for each in unchecked)


@pytest.mark.slow
def test_the_layers_of_a_base_that_was_pulled_from_nowhere_are_looked_for_in_the_cache(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packages are laid out here as every other layer is, so the image need not have been built on this machine."""
    monkeypatch.setattr(built.world.store, "files", {})
    there = built.world.with_cache("packages again")
    left_out = shutil.ignore_patterns("images", "base-records", "work-*")
    shutil.copytree(built.world.tools.cache, there.tools.cache, symlinks=True, ignore=left_out, dirs_exist_ok=True)
    image = tamper(built.image, tmp_path / "image", label("org.opencontainers.image.base.digest", None))
    findings, unchecked = Audits(there).checked(image, tmp_path / "of it")
    (reason,) = (each.reason for each in unchecked if each.check == "image")
    # None of them lies upon such a base here.
    assert "which bytes these layers must be: base, interpreter, dependencies, runtime, model" in reason
    assert "COPY base/ /" in next(each.evidence for each in findings if each.where == "history")
