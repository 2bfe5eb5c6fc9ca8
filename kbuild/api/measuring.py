"""Measuring what an image takes and gives under a load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.api.running import RunOptions, started
from kbuild.api.session import Session, open_session
from kbuild.deploy.deployment import Size
from kbuild.errors import ConfigurationError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.measuring.measure import Measured, measure_image
from kbuild.measuring.profile import Profile, Profiles
from kbuild.untrusted import BrokenText, read_text, why
from kbuild.verify.verify_image import read_example


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureOptions:
    """``cpu`` is a quantity of processors as ``kbuild deploy`` has it; each load of so many ``connections`` lasts
    ``seconds``. ``request`` is a file with a request's JSON, None for the model's own example."""

    cpu: str = "1"
    connections: Sequence[int] = (1, 8)
    seconds: float = 5.0
    request: Path | None = None
    run: RunOptions = field(default_factory=RunOptions)


def measure(
    image: str | None = None, options: MeasureOptions | None = None, *, session: Session | None = None
) -> tuple[ImageReference, Profile]:
    """Start an image, ask it under a bounded load, stop it; its name and profile, which ``deploy`` finds by the digest.

    ``image`` and the errors are those of ``run``. Raises ConfigurationError besides for more processors than the
    machine has and for a model without an example where no request is given.
    """
    asked = options or MeasureOptions()
    size = Size(cpu=asked.cpu)
    body = None if asked.request is None else _read_request(asked.request)
    session = session or open_session()
    variables = {"KBUILD_WORKERS": str(size.workers)}
    with started(image, asked.run, session, environment=variables, processors=float(size.cpus)) as found:
        host = found.running.host()
        if size.cpus > host.processors:
            raise ConfigurationError(
                f"the machine has {host.processors} processors, and {asked.cpu} were asked for",
                hint=f"--cpu {host.processors}, or measure on another machine",
            )
        example = body if body is not None else read_example(found.running)
        if example is None:
            raise ConfigurationError(
                "the model was logged without an example to ask it with", hint="--request FILE with a request's JSON"
            )
        what = Measured(
            digest=found.digest, platform=found.platform, cpu=asked.cpu, workers=size.workers, start=found.seconds
        )
        with session.voice("measure") as progress:
            profile = measure_image(
                found.running,
                example,
                what,
                connections=asked.connections,
                seconds=asked.seconds,
                progress=progress,
            )
            progress.made(profile.best.told)
    Profiles(session.tools.cache / "images").write(profile)
    return found.reference, profile


def _read_request(path: Path) -> bytes:
    try:
        return read_text(path).encode()
    except (OSError, BrokenText) as error:
        raise ConfigurationError(f"the request {path} cannot be read: {why(error)}") from error
