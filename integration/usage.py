"""What processes use of memory and processors while something runs, by the folder that they run in."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_EVERY = 0.5  # seconds between two looks; a JVM's pages take milliseconds to count


@dataclass
class Used:
    """The most of each group of processes: PSS in MB, of it what is no JVM's, and seconds of processors."""

    whole: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    python: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def look(self, folders: Mapping[str, Path]) -> None:
        """A process is of the group in whose folder it runs, as all that it starts does."""
        whole, python, cpu = (defaultdict[str, float](float) for _ in range(3))
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):  # it ended meanwhile
                here = (process / "cwd").readlink()
                for name in (name for name, folder in folders.items() if here.is_relative_to(folder)):
                    rollup = (process / "smaps_rollup").read_text(encoding="utf-8")
                    size = int(rollup.split("\nPss:")[1].split()[0]) / 1000
                    whole[name] += size
                    python[name] += 0 if (process / "comm").read_text(encoding="utf-8") == "java\n" else size
                    # Its own seconds, and those of what it started and has seen end (proc(5)).
                    ticks = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:15]
                    cpu[name] += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        for most, now in ((self.whole, whole), (self.python, python), (self.cpu, cpu)):
            for name, value in now.items():
                most[name] = max(most[name], value)


@contextmanager
def measured(folders: Mapping[str, Path]) -> Iterator[Used]:
    """What the processes in these folders use during the block."""
    used, over = Used(), threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY):
            used.look(folders)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield used
    finally:
        over.set()
        thread.join()
