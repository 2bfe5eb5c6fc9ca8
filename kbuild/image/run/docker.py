"""The Docker daemon through its SDK: load an image, look at it, run it. Building goes through ``docker buildx``."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from kbuild.digest import Digest
from kbuild.errors import (
    ContainerFailed,
    EngineUnavailable,
    InvalidImage,
    KbuildError,
    OutputError,
    RuntimeUnavailable,
)
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.docker_archive import docker_archive
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import layout_tar
from kbuild.image.run.usage import Host, Usage, docker_host, docker_usage
from kbuild.progress import Progress

_STOP_SECONDS = 10
# How containerd ends its message when its garbage collector took a layer that the new image shares with the one that
# had its name before, while the new one was being unpacked. Loading it again brings the layer back.
_COLLECTED = "does not exist: not found"
# How Docker before 23 says that it cannot decompress a layer: it takes zstd for a plain tar.
_NO_ZSTD = "invalid tar header"
_HINT = "start Docker, or say where it is with DOCKER_HOST"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedImage:
    """An image in a daemon. ``id`` is what the daemon calls it.

    That is the manifest digest in a containerd image store (``keeps_digest``), the config digest in the older store,
    which makes manifests anew when it pushes. ``unpacked``: it could not read how the layers are packed, and was given
    them plain.
    """

    reference: ImageReference
    id: Digest
    keeps_digest: bool
    unpacked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DockerContainer:
    """A running container, a ``RunningImage``; ``url`` is ``http://127.0.0.1:PORT``.

    ``passing`` is the name of an image that was loaded for this container alone, and goes when it does.
    """

    container: Container
    url: str
    passing: ImageReference | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def remote(self) -> bool:
        """Whoever asks a daemon does not know where it is: its socket may be another machine's, mounted here."""
        return True

    def usage(self) -> Usage:
        """By the container's cgroup, as the daemon reads it."""
        with _asked("does not tell what the container takes"):
            api = self._client().api
            return docker_usage(api.stats(str(self.container.id), stream=False, one_shot=True))

    def host(self) -> Host:
        """The daemon's machine."""
        with _asked("does not tell of its machine"):
            return docker_host(self._client().info())

    def _client(self) -> docker.DockerClient:
        client = self.container.client
        if client is None:
            raise DockerException("the container has no client")
        return client

    def describe(self) -> str:
        """``Docker container 1a2b…``."""
        return f"Docker container {self.container.short_id}"

    def alive(self) -> bool:
        """Whether it still runs."""
        with _asked("does not tell whether the container runs"):
            try:
                self.container.reload()
            except NotFound:
                return False
            return bool(self.container.status == "running")

    def logs(self) -> str:
        """What it wrote so far on both streams."""
        with _asked("cannot read the logs of the container"):
            return bytes(self.container.logs()).decode(errors="replace")

    def log_command(self) -> str:
        """What a person types to read that as it comes."""
        return f"docker logs -f {self.container.short_id}"

    def read_file(self, path: str) -> bytes | None:
        """A file of the image by its absolute path, or None where there is none."""
        with _asked(f"cannot read {path} of the container"):
            try:
                chunks, _ = self.container.get_archive(path)
            except NotFound:
                return None
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                member = archive.next()
                file = None if member is None else archive.extractfile(member)
                return None if file is None else file.read()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after ten seconds; the container is removed."""
        with _asked("cannot stop the container"):
            try:
                self.container.stop(timeout=_STOP_SECONDS)
                self.container.remove(force=True, v=True)
                if self.passing is not None and self.container.client is not None:
                    self.container.client.images.remove(self.passing.familiar, force=True)
            except NotFound:
                pass  # somebody removed it already


class DockerDaemon:
    """The daemon that ``docker`` itself would ask: ``DOCKER_HOST``, else the current context, else the default."""

    def __init__(self) -> None:
        """Raises EngineUnavailable when no daemon answers."""
        try:
            self._client = _connect()
            self.version = str(self._client.version()["Version"])
        except (DockerException, requests.RequestException, OSError, LookupError, TypeError) as error:
            raise EngineUnavailable(f"no Docker daemon answers: {_words(error)}", hint=_HINT) from error

    def load(self, image: BuiltImage, reference: ImageReference) -> LoadedImage:
        """Put an image into the daemon's store under a name, as ``docker load`` does, without a file between.

        Raises InvalidImage when the daemon refuses it or what it then has is another image.
        """
        named = reference.with_tag(reference.tag or "latest")
        problem = self._load(layout_tar(image.layout, reference=named), named)
        if problem is not None and problem.endswith(_COLLECTED):
            problem = self._load(layout_tar(image.layout, reference=named), named)
        unpacked = problem is not None and _NO_ZSTD in problem
        if unpacked:
            problem = self._load(docker_archive(image.layout, image.digest, named), named)
        if problem is not None:
            raise InvalidImage(f"Docker {self.version} refuses the image: {problem}")
        found = self.find(named)
        if found not in (image.digest, image.config_digest):
            raise InvalidImage(f"Docker {self.version} has {found} as {named.familiar}, not {image.digest}")
        return LoadedImage(reference=named, id=found, keeps_digest=found == image.digest, unpacked=unpacked)

    def _load(self, archive: Iterator[bytes], named: ImageReference) -> str | None:
        with _asked(f"cannot load {named.familiar}"):
            answer = self._client.api.load_image(archive)  # type: ignore[no-untyped-call]
            for message in answer:
                if isinstance(message, dict) and message.get("error"):
                    return str(message["error"])
        return None

    def find(self, reference: ImageReference) -> Digest | None:
        """The daemon's ID of an image, or None where it has none of that name."""
        with _asked(f"cannot look for {reference.familiar}"):
            try:
                return Digest.parse(str(self._client.images.get(reference.familiar).id))
            except ImageNotFound:
                return None

    def run(
        self,
        reference: ImageReference,
        *,
        port: int = 8080,
        host_port: int | None = None,
        environment: Mapping[str, str] | None = None,
        passing: bool = False,
        processors: float | None = None,
        progress: Progress,
    ) -> DockerContainer:
        """Start an image that listens on ``port``, reachable from this machine alone.

        ``host_port`` None takes a free one; ``passing`` removes the image's name when the container is stopped;
        ``processors`` is how much of them it gets at most, None for all.
        Its root file system is read-only with a temporary ``/tmp``, and it has no capabilities.
        Raises ContainerFailed when it does not start or stops at once, RuntimeUnavailable when it cannot be reached.
        """
        progress.note(f"docker run {reference.familiar}")
        with _asked(f"cannot run {reference.familiar}"):
            container = self._client.containers.create(
                reference.familiar,
                environment=dict(environment or {}),
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - the one place that may be written
                ports={f"{port}/tcp": ("127.0.0.1", host_port or 0)},
                labels={"io.kbuild": "run"},
                nano_cpus=round((processors or 0) * 1e9),
            )
            try:
                started = time.monotonic()
                container.start()
                return DockerContainer(
                    container=container,
                    url=f"http://127.0.0.1:{_published(container, port)}",
                    passing=reference if passing else None,
                    started=started,
                )
            except BaseException:
                container.remove(force=True, v=True)
                if passing:
                    with suppress(DockerException):  # what went wrong before is what is told
                        self._client.images.remove(reference.familiar, force=True)
                raise


def _connect() -> docker.DockerClient:
    if os.environ.get("DOCKER_HOST"):
        return docker.from_env()
    context = ContextAPI.get_current_context()
    if context is None or not context.Host:
        return docker.from_env()
    return docker.DockerClient(base_url=context.Host, tls=context.TLSConfig or False)


def _published(container: Container, port: int) -> int:
    container.reload()
    if container.status != "running":
        said = bytes(container.logs(tail=5)).decode(errors="replace").strip().replace("\n", " | ")
        raise ContainerFailed(f"the container stopped at once: {said or container.status}")
    bindings = (container.ports or {}).get(f"{port}/tcp") or []
    for binding in bindings:
        return int(binding["HostPort"])
    raise RuntimeUnavailable(
        f"Docker publishes no port for {port}/tcp", hint="the daemon may run without a bridge network"
    )


@contextmanager
def _asked(failure: str) -> Iterator[None]:
    """Docker's errors as ours; that an image or container is not there stays a value for the caller."""
    try:
        yield
    except ImageNotFound as error:
        raise ContainerFailed(f"Docker {failure}: {error.explanation}", hint="load it first") from error
    except NotFound:
        raise
    except APIError as error:
        raise ContainerFailed(f"Docker {failure}: {error.explanation or error}") from error
    except (DockerException, requests.RequestException) as error:
        raise EngineUnavailable(f"Docker {failure}: {_words(error)}", hint=_HINT) from error
    except OSError as error:
        raise OutputError(f"Docker {failure}: {error}") from error
    except KbuildError:
        raise
    except Exception as error:  # the SDK raises whatever it meets first in an answer of another form
        raise EngineUnavailable(
            f"Docker {failure}: what answers is not a Docker daemon: {type(error).__name__}: {_words(error)}",
            hint=_HINT,
        ) from error


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())
