"""The pipe by which workers notice that their supervisor is gone, however it ended: then they drain.

The supervisor holds its only end for writing; where that is closed, reading ends. Unlike Linux's signal at a parent's
death this works on every system, and needs nothing between fork and exec.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

from common.telemetry import get_logger

log = get_logger(__name__)

VARIABLE: Final = "FILLFLEET_LIFELINE"
"""Holds the number of the file descriptor that a worker reads from."""


def drain_when_cut() -> None:
    """Have this process get SIGTERM when the supervisor that started it is gone; without one, do nothing."""
    held = os.environ.pop(VARIABLE, None)  # no process that this one starts has anything to do with it
    if held is None:
        return
    end = int(held)
    os.set_inheritable(end, False)
    threading.Thread(target=_wait, args=(end,), name="lifeline", daemon=True).start()


def _wait(end: int) -> None:
    while os.read(end, 1):
        pass
    log.warning("worker.orphaned", why="its supervisor is gone: no one would start it again")
    os.kill(os.getpid(), signal.SIGTERM)
