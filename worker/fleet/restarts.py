"""When a process that ended by itself is started again: soon at first, later and later where it keeps ending."""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 300.0
"""Who ran for this long before it ended starts with the shortest pause again; loading a model alone takes a minute."""
_JITTER: Final = 0.25


class Restarts:
    """The pauses of one process."""

    def __init__(self) -> None:
        self._next = FIRST_SECONDS

    def pause_seconds(self, ran_seconds: float) -> float:
        """Return how long to wait, now that it has ended after `ran_seconds`.

        Somewhat by chance: what ended all workers of a host at once, a database that is away say, must not be asked by
        all of them at once again.
        """
        if ran_seconds >= STEADY_SECONDS:
            self._next = FIRST_SECONDS
        pause, self._next = self._next, min(2 * self._next, LONGEST_SECONDS)
        return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads starts, and hides nothing
