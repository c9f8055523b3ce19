"""What this host gives its workers beside GPUs: cores and memory, as far as its container may use them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")


def cores(cgroup: Path = _CGROUP) -> int:
    """Return how many processors this process may use at once."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no limit ("max"), or another kind of system
        quota, period = map(int, (cgroup / "cpu.max").read_text().split())
        return max(1, min(seen, quota // period))
    return seen


def memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Return how much memory this process may use at most."""
    seen = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        return min(seen, int((cgroup / "memory.max").read_text()))
    return seen


def threads_for_each(workers: int) -> int:
    """Return how many threads each of `workers` equal processes of this host may compute with."""
    return max(1, cores() // workers)
