"""A profile: what one image took and gave on one machine, as values and as JSON."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import Digest
from kbuild.errors import ConfigurationError, InvalidReference
from kbuild.image.run.usage import Host
from kbuild.progress import how_many
from kbuild.untrusted import BrokenText, parse_json

FORMAT = 1
_DISTURBED = 0.25  # processors


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadFound:
    """A load of so many ``connections`` for so many ``seconds``: ``answers`` with 200 and ``failed`` others; ``rate``
    a second; latencies in milliseconds (None where nothing was answered); ``used``, the processors that it kept busy,
    and ``others``, those that worked for neither it nor who asked (None where nobody tells)."""

    connections: int
    seconds: float
    answers: int
    failed: int
    rate: float
    p50: float | None
    p90: float | None
    p99: float | None
    worst: float | None
    used: float
    others: float | None

    @property
    def told(self) -> str:
        """The rate and its latency, for people."""
        over = f"{self.connections} connection{'' if self.connections == 1 else 's'}"
        return f"{self.rate:.4g} requests/s over {over} (p99 {self.p99 or math.nan:.4g} ms)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What the image with this manifest ``digest`` took and gave on ``host`` at the time ``measured`` (ISO 8601, UTC).

    ``cpu`` is the quantity of processors that it was started with, a worker process each; ``start`` the seconds from
    its start until it was ready; ``idle`` and ``peak`` bytes of memory before and under load, None where nobody told;
    ``request`` the bytes of the request that it was asked with.
    """

    digest: Digest
    platform: str
    host: Host
    cpu: str
    workers: int
    measured: str
    start: float
    idle: int | None
    peak: int | None
    request: int
    loads: tuple[LoadFound, ...]

    @property
    def is_emulated(self) -> bool:
        """Whether the machine has other processors than the image is for."""
        return _ARCHITECTURES.get(self.host.architecture, self.host.architecture) != self.platform.split("/")[1]

    @property
    def best(self) -> LoadFound:
        """The load with the highest rate."""
        return max(self.loads, key=lambda each: each.rate)

    @property
    def disturbed(self) -> float:
        """Processors that others kept busy while it was asked: from a quarter on, rates and latencies tell little."""
        others = max((each.others or 0.0 for each in self.loads), default=0.0)
        return others if others >= _DISTURBED else 0.0

    @property
    def where(self) -> str:
        """The machine, for people."""
        host = self.host
        model = f" ({host.model})" if host.model else ""
        return f"{how_many(host.processors, 'processor')} {host.architecture}{model}, {host.kernel}, {host.runtime}"

    def to_json(self) -> dict[str, Any]:
        """As ``from_json`` reads it."""
        found = {_JSON.get(name, name): getattr(self, name) for name in (*_TEXTS, *_NUMBERS, *_UNKNOWN)}
        loads = [{_JSON.get(name, name): value for name, value in asdict(each).items()} for each in self.loads]
        return {"format": FORMAT, "digest": str(self.digest), **found, "host": asdict(self.host), "loads": loads}

    @classmethod
    def from_json(cls, value: Any, what: str) -> Profile:
        """Read one; ``what`` names it. Raises ConfigurationError for what ``kbuild measure --json`` does not print."""
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"its format is {value['format']!r}, not {FORMAT}")
            return cls(
                digest=Digest.parse(value["digest"]),
                host=_read_host(value["host"]),
                loads=tuple(LoadFound(**_read(each, (), _COUNTED, (*_LATENCIES, "others"))) for each in value["loads"]),
                **_read(value, _TEXTS, _NUMBERS, _UNKNOWN),
            )
        except (KeyError, TypeError, ValueError, AttributeError, InvalidReference) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigurationError(
                f"{what} is not a profile: {reason}", hint="kbuild measure IMAGE --json > FILE writes one"
            ) from error

    def __post_init__(self) -> None:
        if not self.loads or "/" not in self.platform:
            raise ValueError("it holds no load, or no platform")


def told_size(memory: int | None) -> str:
    """Bytes of memory, for people."""
    return "unknown" if memory is None else f"{memory / 2**20:.0f} MiB"


_TEXTS, _NUMBERS, _UNKNOWN = ("platform", "cpu", "measured"), ("workers", "start", "request"), ("idle", "peak")
_LATENCIES = ("p50", "p90", "p99", "worst")
_COUNTED = tuple(each.name for each in fields(LoadFound) if each.name not in (*_LATENCIES, "others"))
# Where the unit is not plain.
_JSON = {name: f"{name}_ms" for name in _LATENCIES}
_JSON |= {"start": "start_seconds", "idle": "idle_bytes", "peak": "peak_bytes", "request": "request_bytes"}
# The kernel's names (uname(2)) by Go's, which images have.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def _read(
    value: Mapping[str, Any], texts: tuple[str, ...], numbers: tuple[str, ...], unknown: tuple[str, ...]
) -> dict[str, Any]:
    """Fields by their names here: texts, numbers, and numbers that may not be known."""
    found: dict[str, Any] = {}
    for name in (*texts, *numbers, *unknown):
        each = value[_JSON.get(name, name)]
        is_number = isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each < math.inf
        if not (isinstance(each, str) if name in texts else is_number or (each is None and name in unknown)):
            raise ValueError(f"its {_JSON.get(name, name)} is {each!r}")
        found[name] = each
    return found


def _read_host(value: Mapping[str, Any]) -> Host:
    texts = _read(value, ("architecture", "kernel", "runtime", "memory_by"), ("processors",), ())
    model = value["model"]
    return Host(
        **texts, model=None if model is None else str(model), held=bool(value["held"]), here=bool(value["here"])
    )


@dataclass(frozen=True, slots=True)
class Profiles:
    """The last profile of each image of this machine, below ``root``, the folder of a ``LocalImages``."""

    root: Path

    def write(self, profile: Profile) -> None:
        """Remember it; of a cache that may only be read it is only shown."""
        with contextlib.suppress(OSError):
            write_vouched(self._file(profile.digest), json.dumps(profile.to_json()).encode())

    def read(self, digest: Digest) -> Profile | None:
        """That of this very image; None where it was not measured here, or by a kbuild that wrote another form."""
        try:
            profile = Profile.from_json(parse_json(read_vouched(self._file(digest))), "the profile")
        except (OSError, BrokenText, ConfigurationError):
            return None
        return profile if profile.digest == digest else None

    def _file(self, digest: Digest) -> Path:
        return self.root / "profiles" / digest.hex
