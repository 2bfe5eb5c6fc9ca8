"""RunningImage: a started image, whoever runs it."""

from __future__ import annotations

from typing import Protocol

from kbuild.image.run.usage import Host, Usage


class RunningImage(Protocol):
    """A process that serves on ``url`` (``http://127.0.0.1:PORT``) until it is stopped."""

    @property
    def url(self) -> str:
        """Where the scoring server listens, without a final slash."""

    @property
    def remote(self) -> bool:
        """Whether it may run on another machine than this one, as a Docker container may."""

    @property
    def started(self) -> float:
        """When it was told to start, by ``time.monotonic``."""

    def usage(self) -> Usage:
        """What it takes at the moment."""

    def host(self) -> Host:
        """Which machine it runs on."""

    def describe(self) -> str:
        """What runs it, for people: ``Docker container 1a2b…`` or ``bubblewrap, process 123``."""

    def alive(self) -> bool:
        """Whether it still runs."""

    def logs(self) -> str:
        """What it wrote so far on both streams."""

    def log_command(self) -> str:
        """What a person types to read that as it comes."""

    def read_file(self, path: str) -> bytes | None:
        """A file of the image by its absolute path, or None where there is none."""

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after ten seconds; nothing of it is left behind."""
