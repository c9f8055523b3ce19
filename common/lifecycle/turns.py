"""Whose turn it is to be published: turns between owners, and between the batches of one owner.

Plain functions of what waits and what is in flight; `waiting.py` reads both from the tables.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final
from uuid import UUID

RUN: Final = 4
"""Jobs of one batch in a row: they share their LoRAs, so a worker that takes several swaps rarely."""
_USUAL_PRIORITY: Final = 5


@dataclass(frozen=True)
class Candidate:
    """A job that may be published. `host` is where its image is fetched from; empty: our own bucket."""

    job: UUID
    owner: UUID
    batch: UUID | None = None
    priority: int = _USUAL_PRIORITY
    host: str = ""


Lines = dict[UUID, dict[UUID | None, deque[Candidate]]]
"""What waits, in its order, by owner and batch."""
LineName = tuple[UUID, UUID | None]
"""An owner and one of its batches; no batch: its single jobs."""
Who = UUID | LineName
"""Whose turn it may be: an owner's, and a line's of that owner."""


@dataclass(frozen=True)
class InFlight:
    """How many jobs are published or running."""

    owners: Counter[UUID] = field(default_factory=Counter)
    lines: Counter[LineName] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)


class Turns:
    """When whoever waits had a turn last: it decides between equals, so that nobody is always the last.

    One dispatcher's memory. Without it (after a restart, say) equals are ordered by their ids, the oldest first.
    """

    def __init__(self, *, remembered: int = 20_000) -> None:
        """Remember so many owners and lines besides those who wait."""
        self._last: dict[Who, int] = {}
        self._number = 0
        self._remembered = remembered

    @property
    def number(self) -> int:
        """How many turns were given."""
        return self._number

    def last(self, who: Who) -> int:
        """Return the number of the last turn of an owner or a line; without one, of when it came."""
        return self._last.get(who, self._number)

    def meet(self, waiting: Iterable[Who]) -> None:
        """Let those who wait in: who was not here yet stands behind all who were, or newcomers would starve them."""
        present = set(waiting)
        for who in present:
            self._last.setdefault(who, self._number)
        if len(self._last) > len(present) + self._remembered:
            self._last = {who: self._last[who] for who in present}

    def give(self, chosen: Iterable[Candidate]) -> None:
        """Remember that these had their turns, in this order."""
        for candidate in chosen:
            self._number += 1
            self._last[candidate.owner] = self._last[candidate.owner, candidate.batch] = self._number


def in_turn(
    lines: Lines,
    flight: InFlight,
    turns: Turns,
    *,
    room: int,
    host_room: Mapping[str, int],
    any_host_room: int,
) -> list[Candidate]:
    """Choose, and take all that was looked at out of `lines`: the owner with the fewest jobs in flight first.

    Among an owner's batches it is the one with the highest priority, then the one with the fewest jobs in flight, in
    runs. Among equals it is whose last turn is the longest ago. A job whose host has no room is left out.
    """
    clock = count(turns.number + 1)
    owners = [(flight.owners[owner], turns.last(owner), owner) for owner in lines]
    heapq.heapify(owners)
    heaps: dict[UUID, list[_Line]] = {
        owner: [
            _Line.of(waiting[0], flight.lines[owner, batch], turns.last((owner, batch)))
            for batch, waiting in of_owner.items()
        ]
        for owner, of_owner in lines.items()
    }
    for heap in heaps.values():
        heapq.heapify(heap)
    left = dict(host_room)
    chosen: list[Candidate] = []
    while owners and len(chosen) < room:
        load, last, owner = owners[0]
        line = heaps[owner][0]
        waiting = lines[owner][line.batch]
        candidate = waiting.popleft()
        has_room = candidate.host == "" or left.get(candidate.host, any_host_room) > 0
        if has_room:
            left[candidate.host] = left.get(candidate.host, any_host_room) - 1
            chosen.append(candidate)
            load, last = load + 1, next(clock)
            line = line.after_one(last)
        if waiting:
            heapq.heapreplace(heaps[owner], line)
        else:
            heapq.heappop(heaps[owner])
        if heaps[owner]:
            heapq.heapreplace(owners, (load, last, owner))
        else:
            heapq.heappop(owners)
    return chosen


def lines_of(candidates: Iterable[Candidate]) -> Lines:
    """Sort candidates by owner and batch; those of one line are given in their order."""
    lines: Lines = {}
    for candidate in candidates:
        lines.setdefault(candidate.owner, {}).setdefault(candidate.batch, deque()).append(candidate)
    return lines


@dataclass(frozen=True, order=True)
class _Line:
    """The jobs of one batch, or the single ones (first among equals), of one owner; ordered by whose turn it is."""

    priority: int
    """Negative: the highest goes first."""
    load: int
    """In flight when its run began: counted exactly, or a batch that is behind by less than a run stays behind."""
    last: int
    """Its last turn before this run."""
    tie: bytes
    run: int = field(compare=False)
    """How many of its run have been chosen."""
    batch: UUID | None = field(compare=False)

    @classmethod
    def of(cls, candidate: Candidate, load: int, last: int) -> _Line:
        batch = candidate.batch
        return cls(-candidate.priority, load, last, batch.bytes if batch else b"", run=0, batch=batch)

    def after_one(self, turn: int) -> _Line:
        """Return the line after one of its jobs was chosen; within a run it keeps its place."""
        if self.run + 1 < RUN:
            return _Line(self.priority, self.load, self.last, self.tie, self.run + 1, self.batch)
        return _Line(self.priority, self.load + RUN, turn, self.tie, 0, self.batch)
