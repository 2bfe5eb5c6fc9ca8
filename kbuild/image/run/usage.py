"""What a started image takes of its machine, and which machine that is: figures of one say nothing of another."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """``memory`` in bytes, now, None where nobody tells it; ``processor`` in seconds of one, since it was started."""

    memory: int | None
    processor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """The machine that an image runs on: how many ``processors``, of what ``architecture`` (as ``uname -m`` says) and
    ``model`` (None where nobody tells), its ``kernel``; the ``runtime`` that runs it there.

    ``memory_by`` says what is counted as memory; ``held`` whether the runtime keeps an image to the processors that it
    was started with; ``here`` whether it is the machine of this process.
    """

    processors: int
    architecture: str
    model: str | None
    kernel: str
    runtime: str
    memory_by: str
    held: bool
    here: bool


def this_host(runtime: str) -> Host:
    """This machine, whose processes are counted one by one."""
    names = platform.uname()
    return Host(
        processors=len(os.sched_getaffinity(0)),
        architecture=names.machine,
        model=read_model(),
        kernel=f"{names.system} {names.release}",
        runtime=runtime,
        memory_by="what its processes share counts once",
        held=False,
        here=True,
    )


def docker_host(info: Mapping[str, Any]) -> Host:
    """The machine of a Docker daemon, by its ``GET /info``, which may be another one."""
    names = platform.uname()
    architecture, kernel = str(info.get("Architecture")), str(info.get("KernelVersion"))
    is_here = (info.get("Name"), architecture, kernel) == (names.node, names.machine, names.release)
    return Host(
        processors=int(info.get("NCPU") or 0),
        architecture=architecture,
        model=read_model() if is_here else None,
        kernel=f"{str(info.get('OSType') or 'linux').capitalize()} {kernel}",
        runtime=f"Docker {info.get('ServerVersion')}",
        memory_by="the container's cgroup, without inactive files",
        held=True,
        here=is_here,
    )


def docker_usage(stats: Mapping[str, Any]) -> Usage:
    """Of a container's ``GET /stats``: memory as ``docker stats`` and the kubelet count it, without what the kernel
    drops first; where there is no cgroup for it nobody tells."""
    memory = stats.get("memory_stats") or {}
    more = memory.get("stats") or {}
    # By cgroup v1 it is that of the whole tree.
    inactive = more.get("total_inactive_file", more.get("inactive_file", 0))
    used = memory.get("usage")
    processor = ((stats.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0
    return Usage(memory=None if not used else int(used) - int(inactive), processor=int(processor) / 1e9)


def tree_usage(pid: int, proc: Path = Path("/proc")) -> Usage:
    """Of a process and all below it: proportional set size, in which what they share counts once, and user and system
    time (proc(5)). Of a process that ends meanwhile nothing counts."""
    sizes, seconds = [], 0.0
    for each in _tree(pid, proc):
        try:
            rollup = (proc / str(each) / "smaps_rollup").read_text("utf-8")
            sizes += [1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
            fields = _stat(proc / str(each))
        except OSError:
            continue
        seconds += (int(fields[11]) + int(fields[12])) / _TICKS
    return Usage(memory=sum(sizes) if sizes else None, processor=seconds)


def busy_seconds(proc: Path = Path("/proc")) -> float | None:
    """Seconds of processors that this machine, and what it is a guest of, worked since it started (proc(5), stat); None
    where nobody tells."""
    try:
        user, nice, system, _idle, _wait, *others = map(int, (proc / "stat").read_text("utf-8").split(None, 9)[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(others)) / _TICKS


def read_model() -> str | None:
    """What the kernel calls the processors; Arm's have no such name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    names = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return next((" ".join(name.split()) for name in names), None)


def _tree(pid: int, proc: Path) -> Iterator[int]:
    children: dict[int, list[int]] = defaultdict(list)
    for folder in proc.glob("[0-9]*"):
        try:
            children[int(_stat(folder)[1])].append(int(folder.name))
        except OSError:
            continue  # it ended
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        waiting += children[each]
        yield each


def _stat(folder: Path) -> list[str]:
    """The fields from the third on: a command's name may hold anything."""
    return (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
