"""When our own bucket or database is down, nobody's job is at fault: claiming pauses until they answer again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from common.errors import Transient, Unavailable
from common.telemetry import get_logger

log = get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 5.0


class Outage:
    """Whether our servers were seen down, shared by all job threads of a worker."""

    def __init__(self, probe: Callable[[], None], draining: threading.Event) -> None:
        """`probe` raises Unavailable or Transient while they are down; `draining` ends every wait."""
        self._probe = probe
        self._draining = draining
        self._down = threading.Event()

    def note(self, error: Unavailable) -> None:
        """Somebody has seen a server down."""
        if not self._down.is_set():
            log.error("outage.began", code=error.code)
        self._down.set()

    def wait_until_over(self) -> bool:
        """Return True once the servers answer (at once where nobody saw them down), False when the worker drains."""
        pause = _FIRST_PAUSE_SECONDS
        while not self.is_over():
            if self._draining.wait(pause):
                return False
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
        return not self._draining.is_set()

    def is_over(self) -> bool:
        """Return whether the servers answer, asking them where somebody saw them down."""
        if not self._down.is_set():
            return True
        try:
            self._probe()
        except (Unavailable, Transient):  # Transient: it answers, but refuses what any job must do
            return False
        self._down.clear()
        log.info("outage.over")
        return True
