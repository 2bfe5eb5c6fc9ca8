"""How many processors this container may use.

cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max); v1: sched-bwc (cpu.cfs_quota_us).
"""

from __future__ import annotations

import os
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
