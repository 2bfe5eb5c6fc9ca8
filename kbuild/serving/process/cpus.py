"""How many processors this container may use, and how many threads libraries start for them.

cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max); v1: sched-bwc (cpu.cfs_quota_us).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path


def count_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole processors, at least 1: what the scheduler lets us run on, cut by the cgroup's quota."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """In processors; None where nothing limits."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not limit.isdigit() or not period.isdigit() or period == "0":
        return None
    return int(limit) / int(period)


def limit_pools(environment: MutableMapping[str, str]) -> None:
    """One thread in each pool that numeric libraries keep for themselves, unless the environment says otherwise.

    Requests and workers are what runs side by side. The threads of one request wait for each other, spinning, hundreds
    of times in a request of a boosted model. On processors that others use too, two of them took 3 to 15 times as long
    as one; at their quickest they took longer for 1 row, as long for 1,000 and a tenth less for 10,000.
    Call it before any of the libraries is imported: OpenBLAS starts its threads then.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")
