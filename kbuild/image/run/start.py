"""Starting an image: by Docker where a daemon answers, else in namespaces of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from kbuild.cache.folder import begin_again
from kbuild.errors import ConfigurationError, EngineUnavailable, RuntimeUnavailable
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import read_manifest, read_platform
from kbuild.image.run.docker import DockerDaemon
from kbuild.image.run.running import RunningImage
from kbuild.image.run.runtimes import RUNTIMES, choose_runtime
from kbuild.image.run.sandbox import make_order, start_sandbox
from kbuild.image.run.unpack import unpacked_image
from kbuild.platform import host_platform
from kbuild.process import Runner, start
from kbuild.progress import Progress

RUNTIME_VARIABLE = "KBUILD_RUNTIME"
"""auto (default), docker, bwrap or unshare."""

_BINFMT = Path("/proc/sys/fs/binfmt_misc")


def start_image(
    image: BuiltImage,
    *,
    port: int | None,
    cache: Path,
    log: Path,
    run: Runner,
    progress: Progress,
    environment: Mapping[str, str] | None = None,
    processors: float | None = None,
    environ: Mapping[str, str] = os.environ,
) -> RunningImage:
    """Start an image of this machine's, listening on 127.0.0.1 and ``port`` (None: a free one).

    ``log`` is the file that a sandbox writes its output to; ``processors`` is how much of them it gets at most, to
    which a sandbox does not keep it (``Host.held``). Raises RuntimeUnavailable when nothing here can run it,
    ContainerFailed when it does not start.
    """
    # An image cannot hold its own digest: who starts it says it, for /metadata.
    environment = {"KBUILD_IMAGE_DIGEST": str(image.digest), **(environment or {})}
    wanted = environ.get(RUNTIME_VARIABLE) or "auto"
    if wanted not in ("auto", "docker", *RUNTIMES):
        known = ", ".join(("auto", "docker", *RUNTIMES))
        raise ConfigurationError(f"{RUNTIME_VARIABLE} is {wanted!r}", hint=f"known are {known}")
    if wanted in ("auto", "docker"):
        try:
            daemon = DockerDaemon()
        except EngineUnavailable as error:
            if wanted == "docker":
                raise
            progress.tell(f"{error.message.partition(':')[0]}: running it in namespaces")
        else:
            # A name of its own: the user's tags stay where they are, and it goes when this container does, while
            # another process may run the same image.
            name = ImageReference.parse(f"kbuild/run:{image.digest.hex[:32]}-{uuid4().hex[:16]}")
            image.bring_all(progress)
            daemon.load(image, name)
            return daemon.run(
                name, host_port=port, environment=environment, passing=True, processors=processors, progress=progress
            )
    _check_platform(image)
    runtime = choose_runtime(wanted, run=run)
    # Of what was used to find or build it, only the image itself is needed from here on.
    begin_again(cache, image.layout)
    with ExitStack() as stack:
        unpacked = stack.enter_context(
            unpacked_image(image.layout, digest=image.digest, cache=cache, progress=progress, bring=image.bring)
        )
        running = start_sandbox(
            make_order(unpacked, env=environment),
            runtime=runtime,
            start=start,
            log=log,
            port=port or 0,
            stop_signal=str(unpacked.config.get("StopSignal") or "SIGTERM"),
        )
        # Its files are there until it is stopped.
        running.close = stack.pop_all().close
    return running


def _check_platform(image: BuiltImage) -> None:
    """A foreign program ends with a word that tells nobody what to do, unless the kernel hands it to an emulator."""
    built_for = read_platform(image.layout, read_manifest(image.layout, image.digest))
    here = host_platform()
    if built_for != str(here) and not any(_BINFMT.glob("qemu-*")):
        raise RuntimeUnavailable(
            f"the image is for {built_for}, and this machine is {here}",
            hint="run it on such a machine, or install qemu-user-static, which registers itself with the kernel",
        )
