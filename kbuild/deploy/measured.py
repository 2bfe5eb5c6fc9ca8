"""How much an image is given, by what was measured of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kbuild.deploy.deployment import Size
from kbuild.measuring.profile import Profile

_MI = 2**20
_STEP = 64  # MiB
_ROOM = 1.25  # of the peak: other requests than the example, and what a longer time brings
_PATIENCE = 10  # times the start that was measured: another machine, its disk cold, everybody starting at once
_SHORTEST = 60.0  # seconds that a start may take whatever was measured
_BUSY = 0.7  # of what was busy at the highest rate
_LEAST_BUSY = 10  # percent
# Bytes of memory that a byte of a request takes while it is read, at most of some twenty forms of body: short rows take
# 42, columns of digits 45, objects that lack a column 48, lists in a cell 48; rows of text 17, of long floats 6.
_PER_BYTE = 50
_LEAST_REQUEST = 64 * 1024  # that stated memory leaves room for, or not: less is no server
_SERVERS = 32 * _MI  # of a request, by itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """``size``, and ``told``: lines of where each of its parts is from; ``fact`` is what was measured, for an
    annotation, None where nothing of it was taken."""

    size: Size
    told: str
    fact: str | None = None


def size_by(
    profile: Profile | None,
    *,
    cpu: str | None,
    memory: str | None,
    replicas: tuple[int, int],
    bounded: bool = False,
) -> Sized:
    """What was stated counts; the rest is by the profile where it is of as many processors, else the defaults.

    ``bounded`` says that the image itself bounds its requests. Raises ConfigurationError for amounts that are none.
    """
    least, most = replicas
    default = Size(cpu=cpu or Size().cpu, memory=memory or Size().memory, least=least, most=most)
    if profile is None:
        told = f"not measured here (kbuild measure IMAGE): cpu {default.cpu}, memory {default.memory}"
        return Sized(size=default, told=told)
    of_it = Size(cpu=profile.cpu)
    if cpu is not None and Size(cpu=cpu).cpus != of_it.cpus:
        told = (
            f"measured with {profile.cpu} processors, so nothing of that is taken for {cpu}: kbuild measure --cpu {cpu}"
        )
        return Sized(size=default, told=told)
    little = memory is not None and profile.peak is not None and default.memory_bytes < profile.peak
    period, times = _start(profile.start)
    facts = [f"start {profile.start:.1f} s"]
    lines = [
        f"measured {profile.measured} on {profile.where}; other machines differ",
        f"{period * times} s to start: it took {profile.start:.1f} s",
    ]
    if memory is None and profile.peak is not None:
        workers = Size(cpu=cpu or profile.cpu).workers
        wanted = max(profile.peak * _ROOM, profile.peak + _PER_BYTE * _MI * workers)
        memory = f"{math.ceil(wanted / _MI / _STEP) * _STEP}Mi"
        facts.append(f"peak {profile.peak / _MI:.0f} MiB")
        lines.append(f"memory {memory}: it took {profile.peak / _MI:.0f} MiB")
    size = Size(
        cpu=cpu or profile.cpu,
        memory=memory or default.memory,
        least=least,
        most=most,
        start_period=period,
        start_times=times,
        busy=_busy(profile),
    )
    size = size if bounded else replace(size, max_body=_max_body(profile, size))
    share = f"more replicas at {size.busy} % of the processors"
    if profile.disturbed:
        other = f"other work had {profile.disturbed:.1f} processors meanwhile"
        lines.append(f"{share}, as where nothing was measured: {other}, so the rates say little")
    else:
        facts.append(profile.best.told)
        lines.append(f"{share}: {profile.best.told}")
    if size.max_body is not None:
        lines.append(f"requests of at most {size.max_body / _MI:.1f} MiB: for a larger one there is no memory")
    if little and profile.peak is not None:
        took = f"the {profile.peak / _MI:.0f} MiB that it took"
        lines.append(f"{default.memory} is less than {took}, and what takes more is killed")
    fact = f"{', '.join(facts)}, with {profile.cpu} of {profile.where}"
    return Sized(size=size, told="\n".join(lines), fact=fact)


def _start(seconds: float) -> tuple[int, int]:
    """How often to ask (seconds) and how many times: about ten times within the start that was measured."""
    period = min(10, max(1, round(seconds / 10)))
    return period, math.ceil(max(_SHORTEST, _PATIENCE * seconds) / period)


def _busy(profile: Profile) -> int:
    """A model that waits for something never keeps its processors busy: the autoscaler has to know what full means.

    A model that had to wait for others' work tells nothing of that.
    """
    if profile.disturbed:
        return Size().busy
    full = min(1.0, profile.best.used / float(Size(cpu=profile.cpu).cpus))
    return max(_LEAST_BUSY, round(100 * _BUSY * full))


def _max_body(profile: Profile, size: Size) -> int | None:
    """What each worker may be sent at once besides the request that was measured; whoever sends more ends the pod."""
    if profile.peak is None:
        return None
    room = max(0, size.memory_bytes - profile.peak)
    bound = max(_LEAST_REQUEST, int(profile.request) + room // (_PER_BYTE * size.workers))
    return None if bound >= _SERVERS else bound
