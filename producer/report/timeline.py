"""How many rows ended when, in a bounded number of bins: they grow wider as the batch grows longer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

MAX_BINS: Final = 120
_WIDTHS: Final = (1, 5, 15, 60, 300, 900, 3600, 10_800, 43_200, 86_400)
"""In seconds; each is a multiple of the one before, so that bins can be put together."""


class Bin(NamedTuple):
    """What ended from `start` on, for the timeline's width."""

    start: datetime
    completed: int
    failed: int


class Timeline:
    """Ends of rows, in any order."""

    def __init__(self) -> None:
        self.seconds = _WIDTHS[0]
        """The width of a bin."""
        self._bins: dict[int, tuple[int, int]] = {}
        self._low = self._high = 0

    def add(self, at: datetime, *, completed: bool) -> None:
        """Count one row."""
        place = int(at.timestamp()) // self.seconds
        if not self._bins:
            self._low = self._high = place
        self._put(place, (int(completed), int(not completed)))
        self._low, self._high = min(self._low, place), max(self._high, place)
        while self._high - self._low >= MAX_BINS:
            self._widen()

    def bins(self) -> list[Bin]:
        """Return all bins from the first to the last end, the empty ones too; none where nothing has ended."""
        if not self._bins:
            return []
        return [
            Bin(datetime.fromtimestamp(place * self.seconds, UTC), *self._bins.get(place, (0, 0)))
            for place in range(self._low, self._high + 1)
        ]

    def _put(self, place: int, numbers: tuple[int, int]) -> None:
        completed, failed = self._bins.get(place, (0, 0))
        self._bins[place] = completed + numbers[0], failed + numbers[1]

    def _widen(self) -> None:
        wider = next((width for width in _WIDTHS if width > self.seconds), 2 * self.seconds)
        times = wider // self.seconds
        before, self._bins, self.seconds = self._bins, {}, wider
        for place, numbers in before.items():
            self._put(place // times, numbers)
        self._low, self._high = self._low // times, self._high // times
