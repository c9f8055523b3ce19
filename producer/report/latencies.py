"""Durations of any number of jobs in a few hundred counters: a histogram with its quantiles to within some percent."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final, NamedTuple

_PER_DECADE: Final = 100
"""Bins grow by 2.3 %, so a quantile is off by at most half of that."""


class Column(NamedTuple):
    """One column of the histogram; both ends in milliseconds."""

    start: float
    end: float
    number: int


class Latencies:
    """Durations in milliseconds."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.number = 0
        self.shortest = math.inf
        self.longest = 0.0

    def add(self, milliseconds: float | None) -> None:
        """Count one duration. None and what is below zero (a clock that was set back) is left out."""
        if milliseconds is None or milliseconds < 0:
            return
        self._bins[math.floor(math.log10(max(milliseconds, 1.0)) * _PER_DECADE)] += 1
        self.number += 1
        self.shortest = min(self.shortest, milliseconds)
        self.longest = max(self.longest, milliseconds)

    def quantile(self, part: float) -> float:
        """Return the duration within which `part` (0 to 1) of them were. Raises ValueError where there are none."""
        if not self.number:
            raise ValueError("no durations")
        wanted, seen = math.ceil(part * self.number), 0
        for place in sorted(self._bins):
            seen += self._bins[place]
            if seen >= wanted:
                return min(max(_duration(place + 0.5), self.shortest), self.longest)
        return self.longest

    def columns(self, at_most: int) -> list[Column]:
        """Return the histogram in columns that are equally wide on a logarithmic scale; empty ones in between too."""
        if not self.number:
            return []
        low, high = min(self._bins), max(self._bins) + 1
        wide = max(1, math.ceil((high - low) / at_most))
        columns: Counter[int] = Counter()
        for place, number in self._bins.items():
            columns[(place - low) // wide] += number
        return [
            Column(_duration(low + wide * one), _duration(low + wide * (one + 1)), columns[one])
            for one in range(max(columns) + 1)
        ]


def _duration(place: float) -> float:
    return float(10 ** (place / _PER_DECADE))
