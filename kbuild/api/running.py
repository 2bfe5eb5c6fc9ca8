"""Serving an image on this machine while a program asks it."""

from __future__ import annotations

import errno
import json
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kbuild.api.find import found_image
from kbuild.api.session import Session, open_session
from kbuild.cache.scratch import OWN_FILES
from kbuild.digest import Digest
from kbuild.errors import ContainerFailed
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import read_manifest, read_platform
from kbuild.image.run.running import RunningImage
from kbuild.image.run.start import start_image
from kbuild.image.store.verdicts import Verdicts
from kbuild.offered.given import take_either
from kbuild.offered.shown import html_table
from kbuild.platform import Platform
from kbuild.progress import saying, telling
from kbuild.verify.before_loading import check_image
from kbuild.verify.scoring import post_invocations, wait_until_ready
from kbuild.verify.verify_image import STOPPING, read_example


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """``port`` is one of 127.0.0.1, None a free one; ``timeout`` are the seconds to get ready; ``variables`` are the
    server's, and of this process's own it gets none.
    """

    port: int | None = None
    timeout: float = 120.0
    platform: Platform | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Asks an image that runs; ``reference`` is a name for it."""

    running: RunningImage
    reference: ImageReference

    @property
    def url(self) -> str:
        """Where the scoring server listens, without a final slash."""
        return self.running.url

    def example(self) -> Any:
        """The request that the model was logged with, as JSON values; None where it was logged without one."""
        body = read_example(self.running)
        return None if body is None else json.loads(body)

    def predict(self, data: Any, *, timeout: float = 60.0) -> Any:
        """The predictions, as JSON values, for a DataFrame or a request of MLflow's scoring protocol.

        That is a dict such as ``{"dataframe_split": …}``, ``{"inputs": …}`` or what ``example`` gives. Raises
        ContainerFailed when the image refuses it, with its words, or does not answer within ``timeout`` seconds.
        """
        body = _write_table(data) if hasattr(data, "columns") else json.dumps(data).encode()
        answer = post_invocations(self.url, body, timeout=timeout)
        if answer.status != 200:
            text = " ".join(answer.body.decode(errors="replace").split())
            raise ContainerFailed(f"/invocations answered {answer.status}: {text[:500]}")
        return json.loads(answer.body)["predictions"]

    def _repr_html_(self) -> str:
        return html_table({"serves": self.reference.familiar, "at": self.url})


def _write_table(table: Any) -> bytes:
    """As MLflow writes its own examples: pandas' JSON would round numbers, and make dates numbers."""
    from mlflow.models import convert_input_example_to_serving_input

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pandas says of MLflow's code
        return str(convert_input_example_to_serving_input(table)).encode()


@take_either
@contextmanager
def run(
    image: str | None = None, options: RunOptions | None = None, *, session: Session | None = None
) -> Iterator[Client]:
    """Serve an image on 127.0.0.1 while the block runs; ready when the block begins, stopped when it ends.

    ``image`` is a name or digest that ``kbuild image`` printed, an OCI layout, its tar, or a model, which is built
    first if need be; None is that of the newest trained run. Raises ModelNotTrusted for a model that was not recorded
    here and would do harm, ContainerFailed where it does not start,
    RuntimeUnavailable where nothing here can run it.
    """
    with started(image, options or RunOptions(), session or open_session()) as found:
        yield Client(running=found.running, reference=found.reference)


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """An image that is ready: the manifest's ``digest``, its ``platform``, and the ``seconds`` from its start to there.

    They are known to a tenth of a second; getting the image to where it runs is no part of them.
    """

    running: RunningImage
    reference: ImageReference
    digest: Digest
    platform: str
    seconds: float


@contextmanager
def started(
    image: str | None,
    asked: RunOptions,
    session: Session,
    *,
    environment: Mapping[str, str] = MappingProxyType({}),
    processors: float | None = None,
) -> Iterator[Started]:
    """As ``run``, with variables of the server, and no more than so many processors where the runtime sees to that."""
    _check_free(asked.port)
    tools = session.tools
    with ExitStack() as working, tempfile.TemporaryDirectory() as folder:
        working.enter_context(tools.using_cache())
        with found_image(image, session, asked.platform) as (built, reference):
            _check_free(asked.port)
            with session.voice("start") as progress:
                check_image(built, tools.guard, progress)
                running = start_image(
                    built,
                    port=asked.port,
                    environment={**_numbered(built, tools.cache), **asked.variables, **environment},
                    cache=tools.cache,
                    log=Path(folder) / "log",
                    run=tools.run,
                    progress=progress,
                    processors=processors,
                )
                try:
                    wait_until_ready(running, timeout=asked.timeout, progress=progress)
                    seconds = time.monotonic() - running.started
                    progress.made("ready")
                    platform = read_platform(built.layout, read_manifest(built.layout, built.digest))
                except BaseException:
                    with telling(progress, STOPPING):
                        running.stop()
                    raise
            try:
                working.close()  # what runs needs its own files alone, which are held for it
                yield Started(
                    running=running, reference=reference, digest=built.digest, platform=platform, seconds=seconds
                )
            finally:
                with saying(session.voice, "tidy", OWN_FILES):
                    running.stop()


def _numbered(built: BuiltImage, cache: Path) -> dict[str, str]:
    """The registered version that the model is known by here, for the pages; nothing where there are several."""
    models = Verdicts(cache / "images").said(built.digest).models
    return {"KBUILD_MODEL_VERSION": models[0].rpartition("/")[2]} if len(models) == 1 else {}


def _check_free(port: int | None) -> None:
    """Another server on that port would be taken for the image when it answers that it is ready."""
    if port is None:
        return
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        # Ports that only root may have are Docker's to open, or to refuse.
        if error.errno == errno.EADDRINUSE:
            raise ContainerFailed(
                f"port {port} of 127.0.0.1 is taken by another server",
                hint="name another one with --port, or none to get a free one",
            ) from error
