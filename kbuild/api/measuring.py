"""Measuring what an image takes and gives under a load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.api.running import RunOptions, started
from kbuild.api.session import Session, open_session
from kbuild.deploy.deployment import Size
from kbuild.digest import Digest
from kbuild.errors import ConfigurationError
from kbuild.measuring.measure import Measured, measure_image
from kbuild.measuring.profile import Profile, Profiles, told_size
from kbuild.offered.given import take_either
from kbuild.offered.shown import html_table
from kbuild.progress import how_many
from kbuild.untrusted import BrokenText, read_text, why
from kbuild.verify.verify_image import read_example


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureOptions:
    """How an image is measured: ``cpu`` is a quantity of processors as ``kbuild deploy`` has it, such as 2 or 500m;
    each load of so many ``connections`` lasts ``seconds``. ``request`` is a file with a request's JSON, None for the
    model's own example; ``run`` says how the image is started.
    """

    cpu: str = "1"
    connections: Sequence[int] = (1, 8)
    seconds: float = 5.0
    request: Path | None = None
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredImage:
    """An image and how it did. ``image`` is a name for it; ``profile.to_json()`` is what ``kbuild measure --json``
    prints: seconds, bytes of memory, and of each load the rate and its latencies."""

    image: str
    digest: Digest
    profile: Profile

    def _repr_html_(self) -> str:
        found = self.profile
        rows: dict[str, object] = {"image": self.image, "digest": self.digest, "machine": found.where}
        rows["start"] = f"{found.start:.1f} s until it was ready"
        rows["memory"] = f"{told_size(found.idle)} idle, {told_size(found.peak)} at most under load"
        return html_table(rows | {f"{each.connections} connections": each.told for each in found.loads})


@take_either
def measure(
    image: str | None = None, options: MeasureOptions | None = None, *, session: Session | None = None
) -> MeasuredImage:
    """Start an image, ask it under a bounded load, and stop it; how fast it started and answered, and what it took.

    ``image`` is what ``kbuild run`` takes, None that of the newest trained run. The profile is kept by the image's
    digest, for ``kbuild deploy`` on this machine. Raises what ``run`` raises, and ConfigurationError for more
    processors than the machine has, and for a model without an example where no request is given.
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
                f"the machine has {how_many(host.processors, 'processor')}, and {asked.cpu} were asked for",
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
    return MeasuredImage(image=found.reference.familiar, digest=found.digest, profile=profile)


def _read_request(path: Path) -> bytes:
    try:
        return read_text(path).encode()
    except (OSError, BrokenText) as error:
        raise ConfigurationError(f"the request {path} cannot be read: {why(error)}") from error
