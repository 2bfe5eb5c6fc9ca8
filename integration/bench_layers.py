"""Writing one large layer: ours, its limit, and BuildKit's export of the same tree; ``nox -s bench -- layers``.

The tree is this environment's own packages, copied until it has a gigabyte and 30,000 files. The limit is the slower
of its two halves, each alone: reading the tree as a tar, and compressing that tar from memory (zstd, level 3).
BuildKit exports the same tree twice: with the compression that it has by itself (gzip), and with zstd.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import site
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from engines import DockerEngine, start_engine

from kbuild.image.engines.copying import FileSystem, Ownership, copy_tree
from kbuild.image.engines.native import CopiedLayer
from kbuild.image.oci.compress import make_compressor, write_blob

_BYTES, _FILES = 1_000_000_000, 30_000


def make_tree(folder: Path) -> tuple[int, int]:
    """Fill ``folder``; returns its bytes and files."""
    size = files = number = 0
    source = Path(site.getsitepackages()[0])
    while size < _BYTES or files < _FILES:
        number += 1
        copy = folder / f"copy{number}"
        shutil.copytree(source, copy, symlinks=True)
        found = [path.lstat().st_size for path in copy.rglob("*") if path.is_file()]
        size, files = size + sum(found), files + len(found)
    return size, files


def tar_of(tree: Path) -> CopiedLayer:
    """The layer of ``COPY tree/ /opt/``."""
    return CopiedLayer(entries=tuple(copy_tree(FileSystem(), tree, b"opt", Ownership())))


def steps(tree: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """What is timed of ours, by name."""
    blobs = scratch / "blobs"
    blobs.mkdir()

    def walk() -> None:
        for _ in tar_of(tree).chunks():
            pass

    def write() -> None:
        write_blob(tar_of(tree).chunks(), "zstd", blobs, scratch="new")

    return {"tar walk alone": walk, "kbuild: tar, digests, zstd, written": write}


def compress_alone(tree: Path) -> float:
    """Seconds to compress the tar that is already in memory."""
    chunks = list(tar_of(tree).chunks())
    compressor = make_compressor("zstd")
    begin = time.perf_counter()
    for chunk in chunks:
        compressor.compress(chunk)
    compressor.flush()
    return time.perf_counter() - begin


def buildkit(tree: Path, engine: DockerEngine, compression: str, target: Path) -> float:
    """Seconds of BuildKit's build and export, its cache emptied before."""
    (tree / "Dockerfile").write_text("FROM scratch\nCOPY --from=tree / /opt/\n")
    subprocess.run(["docker", "builder", "prune", "-af"], env=engine.env, capture_output=True, check=True)
    output = f"--output=type=oci,dest={target},rewrite-timestamp=true,compression={compression},force-compression=true"
    argv = ["docker", "buildx", "build", "--provenance=false", "--build-arg=SOURCE_DATE_EPOCH=0", output]
    argv += [f"--build-context=tree={tree / 'tree'}", "-f", str(tree / "Dockerfile"), str(tree)]
    begin = time.perf_counter()
    subprocess.run(argv, env=engine.env, capture_output=True, check=True)
    took = time.perf_counter() - begin
    target.unlink()
    return took


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as name:
        folder = Path(name)
        size, files = make_tree(folder / "context" / "tree")
        taken: dict[str, list[float]] = {}
        for _ in range(options.times):
            for step, action in steps(folder / "context" / "tree", Path(tempfile.mkdtemp(dir=folder))).items():
                begin = time.perf_counter()
                action()
                taken.setdefault(step, []).append(time.perf_counter() - begin)
            taken.setdefault("zstd alone", []).append(compress_alone(folder / "context" / "tree"))
        seconds = {step: statistics.median(each) for step, each in taken.items()}
        if os.geteuid() == 0:
            with start_engine(folder / "dockerd") as engine:
                for compression in ("gzip", "zstd"):
                    took = buildkit(folder / "context", engine, compression, folder / "out.tar")
                    seconds[f"BuildKit: COPY, rewrite-timestamp, {compression}"] = took
    ours = seconds["kbuild: tar, digests, zstd, written"]
    limit = max(seconds["tar walk alone"], seconds["zstd alone"])
    print(f"{size / 1e6:.0f} MB, {files} files; {limit / ours:.2f} of the limit\n")
    print(f"{'step':<48}{'seconds':>9}{'of kbuild':>11}")
    for step, took in seconds.items():
        print(f"{step:<48}{took:>9.1f}{took / ours:>11.2f}")
    if options.json:
        result = {"bytes": size, "files": files, "seconds": seconds, "of_limit": limit / ours}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
