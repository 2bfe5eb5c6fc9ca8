"""Pushing to a real registry: through connections that break, and without sending what it has elsewhere."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from engines import Registry
from small import build, make_context, write

from kbuild.image.deliver.publishers import RegistryPublisher
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.validate import validate_layout
from kbuild.image.registry.blob_places import BlobPlaces
from kbuild.image.registry.transfer import pull_image
from kbuild.platform import host_platform
from kbuild.progress import Silent

LARGE = 40_000_000


@dataclass
class Line:
    """A TCP connection to a server that breaks after so many bytes to it, once for each number in ``cuts``."""

    target: tuple[str, int]
    cuts: list[int] = field(default_factory=list)
    sent: int = 0
    broken: int = 0
    address: str = ""

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.create_connection(self.target)
        threading.Thread(target=self._back, args=(server, client), daemon=True).start()
        here = 0
        with client, server, suppress(OSError):
            while data := client.recv(1 << 16):
                self.sent += len(data)
                here += len(data)
                if self.cuts and here > self.cuts[0]:
                    self.cuts.pop(0)
                    self.broken += 1
                    # Both sides see a reset.
                    for side in (client, server):
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(registry: Registry) -> Iterator[Line]:
    host, _, port = registry.address.partition(":")
    with listening() as listener:
        line = Line(target=(host, int(port)), address=f"127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=line.serve, args=(listener,), daemon=True).start()
        yield line


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> BuiltImage:
    """An image with a large layer that no compressor makes small."""
    folder = tmp_path_factory.mktemp("large")
    context = make_context(folder / "context", busybox)
    write(context.path / "model/weights", os.urandom(LARGE))
    return build("native", context, folder)


def test_a_push_survives_connections_that_break(image: BuiltImage, line: Line, tmp_path: Path) -> None:
    """Debian's registry forgets an upload that broke, so it is begun again, in parts."""
    line.cuts = [25_000_000, 10_000_000]
    name = ImageReference.parse(f"{line.address}/broken/line:1")
    pushed = RegistryPublisher().publish(image, name, progress=Silent())
    assert line.broken == 2
    assert line.sent > LARGE + 30_000_000
    _, layout = pull_image(pushed, host_platform(), cache=tmp_path, progress=Silent())
    validate_layout(layout)


def test_what_another_repository_has_is_not_sent(image: BuiltImage, line: Line, tmp_path: Path) -> None:
    places = BlobPlaces(root=tmp_path / "places")
    first = ImageReference.parse(f"{line.address}/team/one:1")
    RegistryPublisher(places=places).publish(image, first, progress=Silent())
    assert line.sent > LARGE
    for number, publisher in enumerate(
        (RegistryPublisher(places=places), RegistryPublisher(base=first.with_digest(image.digest)))
    ):
        line.sent = 0
        other = ImageReference.parse(f"{line.address}/team/other{number}:1")
        assert publisher.publish(image, other, progress=Silent()) == other.with_digest(image.digest)
        assert line.sent < 20_000
    line.sent = 0
    RegistryPublisher().publish(image, first.with_tag("again"), progress=Silent())
    assert line.sent < 20_000
    places.add(ImageReference.parse(f"{line.address}/never/pushed:1"), [layer.digest for layer in image.layers])
    unknown = ImageReference.parse(f"{line.address}/elsewhere/two:1")
    pushed = RegistryPublisher(places=places).publish(image, unknown, progress=Silent())
    assert line.sent > LARGE
    pull_image(pushed, host_platform(), cache=tmp_path / "pulled", progress=Silent())
