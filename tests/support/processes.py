"""Looking at processes from outside, through /proc: who lives in a folder, who listens where, who is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import pytest

needs_proc: Final = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks at processes through /proc")
_LISTENING: Final = "0A"


def lives(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_in(folder: Path) -> list[int]:
    """Return the pids of all processes whose working directory is in `folder`, whatever they call themselves."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            at = os.readlink(entry / "cwd") if entry.name.isdigit() else ""
        except OSError:  # gone in the meantime
            continue
        if at.startswith(f"{folder}/") and lives(int(entry.name)):
            found.append(int(entry.name))
    return found


def listening_addresses(pid: int) -> set[str]:
    """Return the addresses, as /proc/net writes them, on which a process accepts TCP connections."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Return whether it became so within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return so


def all_gone(pids: Iterable[int]) -> bool:
    """Return whether none of these processes runs."""
    return not any(lives(pid) for pid in pids)
