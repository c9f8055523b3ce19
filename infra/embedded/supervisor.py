"""Starts again what has ended by itself: at once the first time, later and later when it keeps ending."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from infra.embedded.errors import GuardianLost, StartFailed
from infra.embedded.process import describe_exit

_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 60.0
_STEADY_SECONDS: Final = 60.0
"""Who ran for this long before it ended starts with the shortest pause again."""

_LINES: Final = 5


class Part(Protocol):
    """A server or a service, as the supervisor sees it."""

    @property
    def name(self) -> str:
        """What to call it."""

    def exit_code(self) -> int | None:
        """Return how it ended, or None while it runs."""

    def last_words(self, lines: int = 20) -> str:
        """Return the tail of its log."""

    def start(self) -> None:
        """Start it again. Raises StartFailed."""


@dataclass
class _Record:
    """When a part was last started, and when it is to be started again."""

    started: float
    pause: float = _FIRST_SECONDS
    due: float | None = None


class Supervisor:
    """Looks after parts that are all running at first."""

    def __init__(
        self, parts: Sequence[Part], *, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts = list(parts)
        self._say = say
        self._clock = clock
        self._records = {part.name: _Record(started=clock()) for part in parts}

    def look(self) -> bool:
        """Look at each part once; return whether one has been started again. Raises GuardianLost."""
        changed = False
        for part in self._parts:
            record = self._records[part.name]
            if record.due is None:
                code = part.exit_code()
                if code is not None:
                    words = part.last_words(_LINES)
                    self._plan(part, record, f"{part.name} ended with {describe_exit(code)}. {words}")
            elif self._clock() >= record.due:
                changed |= self._start(part, record)
        return changed

    def _plan(self, part: Part, record: _Record, reason: str) -> None:
        now = self._clock()
        if now - record.started >= _STEADY_SECONDS:
            record.pause = _FIRST_SECONDS
        record.due = now + record.pause
        self._say(f"{reason}\nstarting {part.name} again in {record.pause:.0f} s")
        record.pause = min(2 * record.pause, _LONGEST_SECONDS)

    def _start(self, part: Part, record: _Record) -> bool:
        record.started, record.due = self._clock(), None
        try:
            part.start()
        except GuardianLost:
            raise
        except StartFailed as error:
            self._plan(part, record, error.message)
            return False
        self._say(f"{part.name} is started again")
        return True
