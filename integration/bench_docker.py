"""Benchmark of images beside ``mlflow models build-docker``: ``nox -s bench -- docker``.

One model, one Docker engine, one run. Both have their packages downloaded before. Timed: a cold build; the container's
start until its first prediction; its memory. Weighed: the compressed layers in a registry, and what ours are made of.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from asking import answers
from engines import DockerEngine, Registry, free_port, start_engine, start_registry
from peer_image import PeerImage, download_wheels, served_folder, write_dockerfile
from scoring import memory, question_of
from tool import Tool

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
)
# What is downloaded: of wheels and conda's packages, and of the base, as the other side's apt step is done before.
FETCHED = ("downloads", "debs", "package-lists")
# Empty is unset: installers compile what they install, and a checkout's modules are compiled when they are imported
# first. A shell that forbids it would have each command compile all that it imports, hundreds of modules.
AS_INSTALLED = {"PYTHONDONTWRITEBYTECODE": ""}
STARTS = ("seconds", "megabytes", "anonymous")
WORKERS = {"kbuild": "KBUILD_WORKERS", "kbuild --slim": "KBUILD_WORKERS", "mlflow": "MLFLOW_MODELS_WORKERS"}


@contextlib.contextmanager
def own_disk(folder: Path, size: int = 24 << 30) -> Iterator[Path]:
    """A folder with a file system of its own, in a file that takes what is written: what one side removes there costs
    the other no time, see ``cold_builds``."""
    folder.mkdir()
    image = folder.with_suffix(".ext4")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def cold_builds(tool: Tool, model: Path, run_id: str, project: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Builds of ours in a cache that holds downloads only, with a lock to make and with the one of the run.

    Not asked after they are built (``Tool`` says so to all), as MLflow's is not; one is, as is the default.
    """
    # Each has a new cache, and none is removed meanwhile: for minutes after many files were removed, ext4 takes
    # several times as long to make new ones (recently_deleted in fs/ext4/ialloc.c), whoever makes them.
    numbers = itertools.count()
    caches: dict[str, Path] = {}

    def build(name: str, wanted: str, *options: str, cwd: Path) -> Any:
        cache = caches[name] = folder / f"{name}{next(numbers)}"
        for kind in FETCHED:
            shutil.copytree(tool.cache / kind, cache / kind, copy_function=os.link)
        cold = Tool(cache=cache, environment=tool.environment)
        return cold("image", wanted, "--engine", "native", "--json", *options, cwd=cwd)

    def laid_out() -> Any:
        for made in ("layers", "images", "slim"):
            shutil.rmtree(caches["locked"] / made, ignore_errors=True)
        return Tool(cache=caches["locked"], environment=tool.environment)(
            "image", run_id, "--locked", "--engine", "native", cwd=project
        )

    return {
        "kbuild, locked in training's job": lambda: build("locked", run_id, "--locked", cwd=project),
        "kbuild, the same, started and asked": lambda: build("asked", run_id, "--locked", "--verify", cwd=project),
        # Elsewhere: in the project's folder the model's run is found, and the lock that is stored with it.
        "kbuild, lock to be made": lambda: build("unlocked", str(model), cwd=folder),
        "kbuild, packages laid out before": laid_out,
    }


@contextlib.contextmanager
def started(engine: DockerEngine, image: str, environment: Mapping[str, str], question: bytes) -> Iterator[Any]:
    """A container of ``image``; yields the seconds until its first prediction and its first process."""
    port = free_port()
    variables = [word for item in environment.items() for word in ("-e", "=".join(item))]
    argv = ["docker", "run", "-d", "--rm", "-p", f"127.0.0.1:{port}:8080", *variables, image]
    begun = time.monotonic()
    done = subprocess.run(argv, env=engine.env, capture_output=True, text=True, check=True)
    name = done.stdout.strip()
    try:
        while not answers(port, question):
            if time.monotonic() - begun > 180:
                raise SystemExit(f"{image} does not answer")
            time.sleep(0.02)
        seconds = time.monotonic() - begun
        inspect = ["docker", "inspect", "-f", "{{.State.Pid}}", name]
        pid = int(subprocess.run(inspect, env=engine.env, capture_output=True, text=True, check=True).stdout)
        # Of two workers one may still be warming up.
        for _ in range(20):
            while not answers(port, question):
                if time.monotonic() - begun > 180:
                    raise SystemExit(f"{image} no longer answers")
        yield seconds, pid
    finally:
        subprocess.run(["docker", "stop", "-t", "5", name], env=engine.env, capture_output=True, check=True)


def compressed(registry: Registry, name: str) -> int:
    """Bytes of an image's layers in the registry."""
    manifest = _manifest(registry, name, "1")
    if "manifests" in manifest:
        manifest = _manifest(registry, name, manifest["manifests"][0]["digest"])
    return sum(layer["size"] for layer in manifest["layers"])


def _manifest(registry: Registry, name: str, reference: str) -> Any:
    url = f"http://{registry.address}/v2/{name}/manifests/{reference}"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": MANIFESTS})) as answer:
        return json.load(answer)


def unpacked(engine: DockerEngine, image: str) -> int:
    """Bytes of the files in an image, as ``docker export`` writes them."""
    create = subprocess.run(["docker", "create", image], env=engine.env, capture_output=True, text=True, check=True)
    name, size = create.stdout.strip(), 0
    with subprocess.Popen(["docker", "export", name], env=engine.env, stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        while chunk := tar.stdout.read(1 << 20):
            size += len(chunk)
    subprocess.run(["docker", "rm", name], env=engine.env, capture_output=True, check=True)
    return size


def push(engine: DockerEngine, registry: Registry, image: str, name: str) -> None:
    """Tag and push with Docker, each layer compressed as it is."""
    target = f"{registry.address}/{name}:1"
    for argv in (["docker", "tag", image, target], ["docker", "push", "-q", target]):
        subprocess.run(argv, env=engine.env, capture_output=True, check=True)


def measure(folder: Path, times: int, *, only_builds: bool) -> dict[str, Any]:
    """The whole benchmark; every figure by name."""
    with (
        own_disk(folder / "theirs") as theirs,
        own_disk(folder / "ours") as ours,
        start_engine(theirs / "dockerd") as engine,
        start_registry(folder / "registry") as registry,
        served_folder(folder) as index,
    ):
        tool = Tool(cache=ours / "cache", environment={"DOCKER_HOST": engine.host, **AS_INSTALLED})
        demo = tool("demo", "--dir", folder / "project", "--json").json
        project, run_id = Path(demo["dir"]), demo["run_id"]
        model = next((project / "mlartifacts" / "models").iterdir()) / "artifacts"
        download_wheels(model, folder / "wheels")
        peer = write_dockerfile(model, folder / "peer", engine, f"{index}wheels/")
        peer.prepare()
        builds = {**cold_builds(tool, model, run_id, project, ours), "mlflow models build-docker": peer.build}
        seconds = alternate(builds, times)
        if only_builds:
            return {"build": seconds}
        images = make_images(tool, run_id, project, peer)
        for name, image in images.items():
            push(engine, registry, image, name.replace(" --", "-"))
        sizes = {
            name: {
                "compressed": compressed(registry, name.replace(" --", "-")),
                "unpacked": unpacked(engine, image),
            }
            for name, image in images.items()
        }
        layers = tool("image", run_id, "--slim", "--json", cwd=project).json["layers"]
        return {
            "build": seconds,
            "size": sizes,
            "layers": {layer["by"]: layer["size"] for layer in layers},
            "start": starts(engine, images, question_of(model, 1), times),
        }


def make_images(tool: Tool, run_id: str, project: Path, peer: PeerImage) -> dict[str, str]:
    """The images that are compared, all in the engine."""
    for options in (("-t", "ours:1"), ("-t", "ours:slim", "--slim")):
        tool("image", run_id, *options, "--load", cwd=project)
    return {"kbuild": "ours:1", "kbuild --slim": "ours:slim", "mlflow": peer.tag}


def alternate(ways: Mapping[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Medians in seconds; each in turn, so that what else the machine does falls on all."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, way in ways.items():
            os.sync()  # what one has written is not written to disk in another's time
            begun = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each) for name, each in taken.items()}


def starts(engine: DockerEngine, images: Mapping[str, str], question: bytes, times: int) -> list[dict[str, Any]]:
    """Seconds to the first prediction and MB after twenty (PSS of all processes, and the part that is of no file).

    With one and with two workers.
    """
    found = []
    for workers in (1, 2):
        taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in images}
        for _ in range(times):
            for name, image in images.items():
                variables = {WORKERS[name]: str(workers), "DO_NOT_TRACK": "1"}
                with started(engine, image, variables, question) as (seconds, pid):
                    taken[name].append((seconds, memory(pid), memory(pid, "Pss_Anon")))
        for name, each in taken.items():
            columns = map(statistics.median, zip(*each, strict=True))
            found.append({"image": name, "workers": workers, **dict(zip(STARTS, columns, strict=True))})
    return found


def main() -> None:
    """Print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-builds", action="store_true", help="neither sizes nor starts")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("this benchmark starts a Docker engine of its own, which takes root")
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as name:
        result = measure(Path(name), options.times, only_builds=options.only_builds)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    theirs = result["build"]["mlflow models build-docker"]
    print(f"{'cold build, packages downloaded':<40}{'seconds':>9}{'faster':>9}")
    for way, took in result["build"].items():
        print(f"{way:<40}{took:>9.1f}{theirs / took:>8.1f}x")
    if options.only_builds:
        return
    print(f"\n{'image':<40}{'MB':>9}{'of':>9}{'unpacked':>10}{'of':>7}")
    base = result["size"]["mlflow"]
    for way, size in result["size"].items():
        share = [size[key] / base[key] for key in ("compressed", "unpacked")]
        print(
            f"{way:<40}{size['compressed'] / 1e6:>9.1f}{share[0]:>9.2f}{size['unpacked'] / 1e6:>10.1f}{share[1]:>7.2f}"
        )
    print(f"\n{'layers of kbuild --slim':<72}{'MB':>9}")
    for by, size in sorted(result["layers"].items(), key=lambda item: -item[1]):
        print(f"{by[:70]:<72}{size / 1e6:>9.1f}")
    heads = ("first prediction s", "memory MB", "of no file MB")
    print(f"\n{'image':<20}{'workers':>8}" + "".join(f"{head:>20}{'of':>6}" for head in heads))
    for each in result["start"]:
        base = next(x for x in result["start"] if x["image"] == "mlflow" and x["workers"] == each["workers"])
        shares = "".join(f"{each[key]:>20.2f}{each[key] / base[key]:>6.2f}" for key in STARTS)
        print(f"{each['image']:<20}{each['workers']:>8}{shares}")


if __name__ == "__main__":
    main()
