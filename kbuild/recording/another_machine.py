"""Beside ``_clean_process.py``: have a process take this machine for another one. Imports nothing of kbuild."""

import contextlib
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

# Fewer open files than engines and shells allow, also for who raises them, and no default of any; a stack as engines
# have it.
LIMITS = {"RLIMIT_NOFILE": (1000, 500_000), "RLIMIT_OFILE": (1000, 500_000), "RLIMIT_STACK": (8 << 20, -1)}


def be_another_machine(release: str) -> None:
    """One processor of several, half the memory, another kernel's release, and limits that are no shell's of this
    machine: see setrlimit(2). What a model needs of them is not to be this machine's.

    Memory and release are the kernel's to say: Python is told others, C libraries are not.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in (each for each in dir(resource) if each.startswith("RLIMIT_")):
        limit = getattr(resource, name)
        _, held = resource.getrlimit(limit)
        soft, hard = LIMITS.get(name, (None, held))
        if held >= 0 and not 0 <= hard < held:
            hard = held - held // 16  # lower than any that this machine has, and enough for who needs it
        soft = hard if soft is None or 0 <= hard < soft else soft
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (soft, hard))
    # A shell or nohup leaves some of them ignored or blocked; the interpreter itself ignores others.
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.sysconf = change_memory(os.sysconf)
    os.cpu_count = lambda: 1
    told = os.uname()
    named = os.uname_result((told.sysname, told.nodename, release, "#1 SMP", told.machine))
    os.uname = lambda: named


def change_memory(sysconf: Callable[[Any], int]) -> Callable[[Any], int]:
    """sysconf(3), by which there is half the memory and one processor."""
    halves = {os.sysconf_names.get(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")}
    ones = {os.sysconf_names.get(name) for name in ("SC_NPROCESSORS_CONF", "SC_NPROCESSORS_ONLN")}

    def changed(name: Any) -> int:
        number, said = os.sysconf_names.get(name, name), sysconf(name)
        return said // 2 if number in halves else 1 if number in ones else said

    return changed
