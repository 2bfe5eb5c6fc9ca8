"""Native and BuildKit, side by side on real engines: one digest, and an image that loads, runs, pushes and pulls."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import requests
from engines import DockerEngine, Registry
from small import LONG, build, make_context, write

from kbuild.errors import BuildFailed, EngineUnavailable, RegistryError, UnsupportedInstruction
from kbuild.image.deliver.publishers import DaemonPublisher, LayoutPublisher, RegistryPublisher, TarballPublisher
from kbuild.image.engine import EngineName, make_engine
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.validate import validate_layout
from kbuild.image.registry.transfer import pull_image
from kbuild.image.run.docker import DockerDaemon
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BASE_CONTEXT
from kbuild.platform import host_platform
from kbuild.process import run
from kbuild.progress import Silent


@pytest.fixture(params=["native", "buildkit"])
def engine_name(request: pytest.FixtureRequest) -> Iterator[EngineName]:
    yield request.param


def test_both_engines_give_one_digest_from_any_folder(tmp_path: Path, busybox: Path, docker_host: DockerEngine) -> None:
    digests = {}
    for engine in ("native", "buildkit"):
        for place in ("one", "elsewhere/two"):
            context = make_context(tmp_path / engine / place / "context", busybox)
            for attempt in ("first", "second"):
                image = build(engine, context, tmp_path / engine / place / attempt)
                digests[engine, place, attempt] = str(image.digest)
    print(digests)
    assert len(set(digests.values())) == 1, digests


def test_a_changed_file_of_equal_size_is_never_taken_from_the_engines_cache(
    tmp_path: Path, busybox: Path, docker_host: DockerEngine
) -> None:
    context = make_context(tmp_path / "context", busybox)
    before = build("buildkit", context, tmp_path / "before")
    page = context.path / "model/srv/index.html"
    times = page.stat()
    page.write_bytes(b"SERVED\n")
    os.utime(page, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = build("buildkit", context, tmp_path / "after")
    assert after.digest != before.digest
    assert after.digest == build("native", context, tmp_path / "native").digest


def test_a_base_in_a_layout_or_registry_is_carried_over(
    tmp_path: Path, busybox: Path, docker_host: DockerEngine, registry: Registry
) -> None:
    lowest = 'FROM {from_line}\nCOPY base/ /\nENV LOWER=1\nCMD ["sh"]\n'
    below = build("native", make_context(tmp_path / "below", busybox, dockerfile=lowest), tmp_path / "lowest")
    name = ImageReference.parse(f"{registry.address}/bases/tiny:1")
    RegistryPublisher().publish(below, name, progress=Silent())
    pulled, layout = pull_image(name, host_platform(), cache=tmp_path / "cache", progress=Silent())
    assert pulled.digest == below.digest
    bases = {
        BASE_CONTEXT: ResolvedBase(kind="layout", name="oci:image", digest=below.digest, path=below.layout),
        str(pulled): ResolvedBase(
            kind="registry", name=str(name), digest=below.digest, reference=str(pulled), path=layout
        ),
    }
    digests = set()
    for number, (from_line, base) in enumerate(bases.items()):
        context = make_context(tmp_path / f"context{number}", busybox, from_line=from_line)
        for engine in ("native", "buildkit"):
            image = build(engine, context, tmp_path / f"{engine}{number}", base)
            assert image.layers[0].digest == below.layers[0].digest
            digests.add(image.digest)
    assert len(digests) == 1


def test_docker_loads_and_runs_it(
    tmp_path: Path, busybox: Path, docker_host: DockerEngine, engine_name: EngineName
) -> None:
    image = build(engine_name, make_context(tmp_path / "context", busybox), tmp_path)
    daemon = DockerDaemon()
    reference = ImageReference.parse(f"kbuild-{engine_name}:1")
    published = DaemonPublisher(daemon=daemon).publish(image, reference, progress=Silent())
    assert published.digest == image.digest == daemon.find(reference)
    container = daemon.run(reference, progress=Silent())
    try:
        assert fetch(container.url) == b"served\n"
        assert container.alive()
        assert container.read_file("/etc/same") == b"same\n"
        assert container.read_file("/no/such/file") is None
    finally:
        container.stop()
    assert not container.alive()


def test_the_old_store_loads_and_runs_it_but_cannot_build_it(
    tmp_path: Path, busybox: Path, old_store_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", old_store_engine.host)
    image = build("native", make_context(tmp_path / "context", busybox), tmp_path)
    daemon = DockerDaemon()
    loaded = daemon.load(image, ImageReference.parse("kbuild-old:1"))
    assert loaded.id == image.config_digest
    assert not loaded.keeps_digest
    container = daemon.run(loaded.reference, progress=Silent())
    try:
        assert fetch(container.url) == b"served\n"
    finally:
        container.stop()
    with pytest.raises(EngineUnavailable, match="old store"):
        make_engine("buildkit", run).probe()


def test_docker_load_reads_the_tar(tmp_path: Path, busybox: Path, docker_host: DockerEngine) -> None:
    image = build("native", make_context(tmp_path / "context", busybox), tmp_path)
    for name in ("a.tar", "b.tar"):
        TarballPublisher(destination=tmp_path / name).publish(
            image, ImageReference.parse("from-tar:1"), progress=Silent()
        )
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    loaded = subprocess.run(
        ["docker", "load", "-i", str(tmp_path / "a.tar")], env=docker_host.env, capture_output=True, text=True
    )
    assert loaded.stdout == "Loaded image: from-tar:1\n", loaded.stderr


def test_push_and_pull_keep_the_digest_and_send_blobs_once(tmp_path: Path, busybox: Path, registry: Registry) -> None:
    image = build("native", make_context(tmp_path / "context", busybox), tmp_path)
    reference = ImageReference.parse(f"{registry.address}/team/engines:1")
    notes = Notes()
    assert RegistryPublisher().publish(image, reference, progress=notes).digest == image.digest
    assert any(note.startswith("pushing") for note in notes.lines)
    again = Notes()
    by_digest = RegistryPublisher().publish(image, reference, progress=again)
    assert not any(note.startswith("pushing") for note in again.lines)
    pulled, layout = pull_image(by_digest, host_platform(), cache=tmp_path / "cache", progress=Silent())
    validate_layout(layout)
    assert pulled == by_digest
    copied = LayoutPublisher(destination=tmp_path / "copy").publish(image, reference, progress=Silent())
    assert copied == by_digest
    validate_layout(tmp_path / "copy")
    shutil.rmtree(layout)
    with pytest.raises(RegistryError, match="has no"):
        pull_image(reference.with_tag("absent"), host_platform(), cache=tmp_path / "cache", progress=Silent())


def test_a_user_s_run_is_built_by_buildkit_alone(tmp_path: Path, busybox: Path, docker_host: DockerEngine) -> None:
    dockerfile = 'FROM {from_line}\nCOPY base/ /\nRUN ["/bin/busybox", "touch", "/made"]\nENTRYPOINT ["/bin/sh"]\n'
    context = make_context(tmp_path / "context", busybox, dockerfile=dockerfile)
    with pytest.raises(UnsupportedInstruction, match="line 3: RUN"):
        build("native", context, tmp_path / "native")
    once, twice = (build("buildkit", context, tmp_path / name) for name in ("once", "twice"))
    assert once.digest == twice.digest
    assert len(once.layers) == 2


def test_a_failing_run_says_why_in_one_line(tmp_path: Path, busybox: Path, docker_host: DockerEngine) -> None:
    dockerfile = "FROM {from_line}\nCOPY base/ /\nRUN echo from the step && ls /missing\n"
    context = make_context(tmp_path / "context", busybox, dockerfile=dockerfile)
    with pytest.raises(BuildFailed) as caught:
        build("buildkit", context, tmp_path)
    assert "No such file or directory" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("seed", range(10))
def test_random_trees_give_one_digest(tmp_path: Path, busybox: Path, docker_host: DockerEngine, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a seed, so that a failure can be had again
    dockerfile = "FROM {from_line}\n" + "".join(
        f"COPY {random.choice(['', '', '--chown=7:8 ', '--chmod=0711 '])}{layer}/ /\n"
        for layer in ("base", "lib", "model")
    )
    context = make_context(tmp_path / "context", busybox, dockerfile=dockerfile)
    for layer in ("base", "lib", "model"):
        scatter(context.path / layer, random)
    assert build("native", context, tmp_path / "native").digest == build("buildkit", context, tmp_path / "kit").digest


def scatter(folder: Path, random: Random) -> None:
    """Folders, files, links and hard links whose names meet those of the other layers."""
    parts = ["a", "b", "ä", "x.y", "x", "x-", "n" * 60]
    files: list[Path] = []
    for _ in range(random.randint(3, 12)):
        parent = folder.joinpath(*random.choices(parts, k=random.randint(0, 3)))
        parent.mkdir(parents=True, exist_ok=True)
        path = parent / f"f-{random.choice(parts)}"
        kind = random.random()
        if path.is_symlink() or path.exists():
            continue
        if kind < 0.2:
            path.symlink_to(random.choice(["a", "../b", LONG + LONG, "ö"]))
        elif kind < 0.35 and files:
            os.link(random.choice(files), path)
        else:
            write(path, random.choice([b"", b"1", b"2", b"big" * 500]), mode=random.choice([0o644, 0o755]))
            files.append(path)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink() and path.name != "tmp":
            path.chmod(0o755 if random.random() < 0.8 else 0o700)


@pytest.mark.parametrize("conflict", ["file over folder", "folder over file", "folder over link"])
def test_both_engines_refuse_the_same_conflicts(
    tmp_path: Path, busybox: Path, docker_host: DockerEngine, engine_name: EngineName, conflict: str
) -> None:
    context = make_context(tmp_path / "context", busybox)
    if conflict == "file over folder":
        write(context.path / "lib/tmp", b"")
    elif conflict == "folder over file":
        (context.path / "lib/etc/same").unlink()
        write(context.path / "lib/etc/same/inside", b"")
    else:
        (context.path / "base/link").symlink_to("etc")
        write(context.path / "lib/link/inside", b"")
    with pytest.raises(BuildFailed):
        build(engine_name, context, tmp_path)


def fetch(url: str) -> bytes:
    """The page, once the server listens."""
    for _ in range(100):
        try:
            return requests.get(f"{url}/index.html", timeout=5).content
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


class Notes:
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    tell = made = note

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        pass
