"""A small build context with everything that tars differ by, and engines that build it."""

from __future__ import annotations

import os
from pathlib import Path

from kbuild.digest import digest_bytes
from kbuild.image.engine import BuiltImage, EngineName, make_engine
from kbuild.image.oci.validate import validate_layout
from kbuild.image.store.pack import pack
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext, BuildPlan, ImageConfig
from kbuild.platform import host_platform
from kbuild.process import run
from kbuild.progress import Silent

LONG = "n" * 90
SCRATCH = ResolvedBase(kind="debs", name="scratch", digest=digest_bytes(b"nothing"))
DOCKERFILE = """\
FROM {from_line}
COPY ["base/", "/"]
COPY lib/ /
COPY model/ /
COPY --chown=5:6 --chmod=0750 model/ /opt/x/
ENV PATH="/opt/bin:${{PATH}}" GREETING="a \\"quoted\\" \\$5 \\\\ value" OTHER='single $PATH'
LABEL "org.example.a b"="x y" plain=value
WORKDIR /srv/dir
WORKDIR /etc
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=1m30s --retries=3 CMD ["/bin/true"]
STOPSIGNAL SIGKILL
USER 65532:65532
ENTRYPOINT ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/srv"]
"""


def make_context(
    folder: Path, busybox: Path, *, from_line: str = "scratch", dockerfile: str = DOCKERFILE
) -> BuildContext:
    """Three layers that overlap, with links, hard links, long and non-ASCII names, and a program."""
    base, lib, model = (folder / name for name in ("base", "lib", "model"))
    write(base / "bin/busybox", busybox.read_bytes(), mode=0o755)
    (base / "bin/sh").symlink_to("busybox")
    write(base / "etc/same", b"same\n")
    write(base / "shared/deep/file", b"base\n")
    (base / "tmp").mkdir()
    (base / "tmp").chmod(0o1777)
    (base / "empty").mkdir()
    write(lib / "bin/run", b"#!/bin/sh\n", mode=0o755)
    (lib / "bin/sh").symlink_to("busybox")
    write(lib / "etc/same", b"same\n")
    write(lib / "shared/deep/file", b"lib!\n")
    write(lib / "shared/deep/one", b"one\n")
    os.link(lib / "shared/deep/one", lib / "shared/deep/two")
    (lib / "empty").mkdir()
    write(lib / "zero", b"")
    write(model / f"shared/{LONG}/{LONG}/ünï-{LONG}.txt", "grüße\n".encode())
    (model / "shared/longlink").symlink_to(f"../{LONG}/{LONG}/{LONG}")
    (model / "shared/empty").mkdir()
    (model / "dé").mkdir()
    write(model / "srv/index.html", b"served\n")
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            if name != "tmp":
                Path(parent, name).chmod(0o755)
    (folder / "Dockerfile").write_text(dockerfile.format(from_line=from_line))
    plan = BuildPlan(
        base=SCRATCH.digest,
        base_name="scratch",
        from_line=from_line,
        platform=host_platform(),
        created=1_700_000_000,
        layers=(),
        config=ImageConfig(
            user="65532", entrypoint=(), env=(), exposed_port=8080, healthcheck=(), stop_signal="", labels=()
        ),
        annotations=(("org.opencontainers.image.title", "engines"),),
        dockerfile="",
    )
    return BuildContext(path=folder, plan=plan)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def build(engine: EngineName, context: BuildContext, workdir: Path, base: ResolvedBase = SCRATCH) -> BuiltImage:
    output = make_engine(engine, run).build(context, base, workdir=workdir, progress=Silent())
    image = pack(output, context.plan, workdir / "image", engine=engine, progress=Silent())
    validate_layout(image.layout)
    return image
