"""Whose jobs are published next: by turns between owners, and between the batches of one owner.

What is out or runs already counts as turns taken, so no dispatcher has to remember anything, and any number of them
agree. Everything here costs as much as is published, however much waits.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from common.contract import Queue
from common.lifecycle.source_hosts import paused_hosts

RUN: Final = 4
"""Jobs of one batch in a row: they share their LoRAs, so a worker that takes several swaps rarely."""
_USUAL_PRIORITY: Final = 5

_IN_FLIGHT: Final = text("""
    SELECT owner_id, batch_id, source_host, count(*) AS number
    FROM (
        SELECT owner_id, batch_id, source_host FROM jobs
        WHERE queue = :queue AND status = 'created' AND publish_seq IS NOT NULL
        UNION ALL
        SELECT owner_id, batch_id, source_host FROM jobs WHERE queue = :queue AND status = 'processing'
    ) AS job
    GROUP BY owner_id, batch_id, source_host
""")

_SINGLE: Final = text("""
    WITH RECURSIVE waiting (owner_id) AS (
        (
            SELECT owner_id FROM jobs
            WHERE queue = :queue AND status = 'created' AND publish_seq IS NULL AND batch_id IS NULL
            ORDER BY owner_id LIMIT 1
        )
        UNION ALL
        SELECT later.owner_id
        FROM waiting
        CROSS JOIN LATERAL (
            SELECT owner_id FROM jobs
            WHERE queue = :queue AND status = 'created' AND publish_seq IS NULL AND batch_id IS NULL
              AND owner_id > waiting.owner_id
            ORDER BY owner_id LIMIT 1
        ) AS later
    )
    SELECT pick.id, waiting.owner_id
    FROM waiting
    LEFT JOIN unnest(CAST(:owners AS uuid[]), CAST(:loads AS integer[])) AS busy (owner_id, load) USING (owner_id)
    CROSS JOIN LATERAL (
        SELECT id, row_number() OVER (ORDER BY available_at, id) AS turn
        FROM jobs
        WHERE queue = :queue AND owner_id = waiting.owner_id
          AND status = 'created' AND publish_seq IS NULL AND batch_id IS NULL AND available_at <= now()
        ORDER BY available_at, id
        LIMIT :room
    ) AS pick
    ORDER BY coalesce(busy.load, 0) + pick.turn, waiting.owner_id
    LIMIT :room
""")
"""The owners are found by hopping from one to the next in ix_jobs_waiting, so those who wait for nothing cost
nothing."""

_ROWS: Final = text("""
    SELECT pick.id, batches.owner_id, batches.id AS batch_id, batches.priority, pick.source_host
    FROM batches
    CROSS JOIN LATERAL (
        WITH RECURSIVE lane (adapters, source_host) AS (
            (
                SELECT adapters, source_host FROM jobs
                WHERE batch_id = batches.id AND status = 'created' AND publish_seq IS NULL
                ORDER BY adapters, source_host LIMIT 1
            )
            UNION ALL
            SELECT later.adapters, later.source_host
            FROM lane
            CROSS JOIN LATERAL (
                SELECT adapters, source_host FROM jobs
                WHERE batch_id = batches.id AND status = 'created' AND publish_seq IS NULL
                  AND (adapters, source_host) > (lane.adapters, lane.source_host)
                ORDER BY adapters, source_host LIMIT 1
            ) AS later
        )
        SELECT due.id, lane.source_host
        FROM lane
        CROSS JOIN LATERAL (
            SELECT id FROM jobs
            WHERE batch_id = batches.id AND adapters = lane.adapters AND source_host = lane.source_host
              AND status = 'created' AND publish_seq IS NULL AND available_at <= now()
            ORDER BY available_at, id
            LIMIT least(
                :depth, coalesce(CAST(CAST(:host_room AS jsonb) ->> lane.source_host AS integer), :any_host_room)
            )
        ) AS due
        LIMIT :depth
    ) AS pick
    WHERE batches.state = 'open' AND batches.ended_at IS NULL
      AND batches.id = ANY(coalesce(CAST(:batches AS uuid[]), ARRAY[batches.id]))
""")
"""A batch goes through its lanes one after the other: all rows of one set of LoRAs, there host by host. Lanes are found
by hopping, and only so many as it takes to fill the depth; a host that has no room costs one hop."""

_OPEN: Final = text("SELECT count(*) FROM batches WHERE state = 'open' AND ended_at IS NULL")


@dataclass(frozen=True)
class Candidate:
    """A job that may be published. `host` is where its image is fetched from; empty: our own bucket."""

    job: UUID
    owner: UUID
    batch: UUID | None = None
    priority: int = _USUAL_PRIORITY
    host: str = ""


_Lines = dict[UUID, dict[UUID | None, deque[Candidate]]]
"""By owner and batch."""


@dataclass(frozen=True)
class InFlight:
    """How many jobs are published or running."""

    owners: Counter[UUID] = field(default_factory=Counter)
    lines: Counter[tuple[UUID, UUID | None]] = field(default_factory=Counter)
    """By owner and batch."""
    hosts: Counter[str] = field(default_factory=Counter)


def next_jobs(connection: Connection, queue: Queue, *, room: int, host_limit: int) -> list[UUID]:
    """Return at most `room` due jobs in the order in which to publish them.

    `host_limit` bounds how many jobs of batches that fetch from one host may be in flight; 0: no bound.
    """
    flight = _read_in_flight(connection, queue)
    loads = {"owners": list(flight.owners), "loads": list(flight.owners.values())}
    found = [
        Candidate(row.id, row.owner_id)
        for row in connection.execute(_SINGLE, {"queue": queue.value, "room": room, **loads})
    ]
    if queue is not Queue.BULK:
        return in_turn(found, flight, room=room, host_room={}, any_host_room=room)
    any_host_room = host_limit or room
    host_room = {host: max(0, any_host_room - number) for host, number in flight.hosts.items()} if host_limit else {}
    host_room |= dict.fromkeys(paused_hosts(connection), 0) | {"": room}
    wish = {"host_room": json.dumps(host_room), "any_host_room": any_host_room}
    # Of a thousand open batches each shows a few rows, and more only where all of them were looked at: what is chosen
    # is the same as if each had shown as many as there is room for.
    depth = min(room, max(2 * RUN, 4 * room // max(1, connection.execute(_OPEN).scalar_one())))
    rows = _read_rows(connection, wish | {"depth": depth, "batches": None})
    depths = dict.fromkeys(rows, depth)
    while True:
        lines = _lines(chain(found, *rows.values()))
        chosen = _choose(lines, flight, room=room, host_room=host_room, any_host_room=any_host_room)
        cut_off = (batch for batch, shown in rows.items() if len(shown) == depths[batch] < room)
        used_up = [batch for batch in cut_off if not lines[rows[batch][0].owner][batch]]
        if not used_up:
            return chosen
        depth = min(room, 4 * depth)
        depths |= dict.fromkeys(used_up, depth)
        rows |= dict.fromkeys(used_up, ()) | _read_rows(connection, wish | {"depth": depth, "batches": used_up})


def in_turn(
    candidates: Iterable[Candidate],
    flight: InFlight,
    *,
    room: int,
    host_room: Mapping[str, int],
    any_host_room: int,
) -> list[UUID]:
    """Choose among candidates, those of one line given in their order: the owner with the fewest jobs in flight first.

    Among an owner's batches it is the one with the highest priority, then the one with the fewest jobs in flight, in
    runs. A job whose host has no room is left out.
    """
    return _choose(_lines(candidates), flight, room=room, host_room=host_room, any_host_room=any_host_room)


def _lines(candidates: Iterable[Candidate]) -> _Lines:
    lines: _Lines = {}
    for candidate in candidates:
        lines.setdefault(candidate.owner, {}).setdefault(candidate.batch, deque()).append(candidate)
    return lines


def _choose(
    lines: _Lines, flight: InFlight, *, room: int, host_room: Mapping[str, int], any_host_room: int
) -> list[UUID]:
    """Do what `in_turn` says; what was looked at is taken out of `lines`."""
    owners = [(flight.owners[owner], owner) for owner in lines]
    heapq.heapify(owners)
    heaps: dict[UUID, list[_Line]] = {
        owner: [_line(waiting[0], flight.lines[owner, batch]) for batch, waiting in of_owner.items()]
        for owner, of_owner in lines.items()
    }
    for heap in heaps.values():
        heapq.heapify(heap)
    left = dict(host_room)
    chosen: list[UUID] = []
    while owners and len(chosen) < room:
        load, owner = owners[0]
        line = heaps[owner][0]
        waiting = lines[owner][line.batch]
        candidate = waiting.popleft()
        has_room = candidate.host == "" or left.get(candidate.host, any_host_room) > 0
        if has_room:
            left[candidate.host] = left.get(candidate.host, any_host_room) - 1
            chosen.append(candidate.job)
        if waiting:
            heapq.heapreplace(heaps[owner], _line(waiting[0], line.load, line.run + has_room))
        else:
            heapq.heappop(heaps[owner])
        if heaps[owner]:
            heapq.heapreplace(owners, (load + has_room, owner))
        else:
            heapq.heappop(owners)
    return chosen


@dataclass(frozen=True, order=True)
class _Line:
    """The jobs of one batch, or the single ones (first among equals), of one owner; ordered by whose turn it is."""

    rank: tuple[int, int, bytes]
    load: int = field(compare=False)
    """In flight when its run began: counted exactly, or a batch that is behind by less than a run stays behind."""
    run: int = field(compare=False)
    """How many of its run have been chosen."""
    batch: UUID | None = field(compare=False)


def _line(candidate: Candidate, load: int, run: int = 0) -> _Line:
    batch = candidate.batch
    if run == RUN:
        load, run = load + RUN, 0
    return _Line((-candidate.priority, load, batch.bytes if batch else b""), load, run, batch)


def _read_rows(connection: Connection, wish: Mapping[str, object]) -> dict[UUID, Sequence[Candidate]]:
    rows: dict[UUID, list[Candidate]] = {}
    for row in connection.execute(_ROWS, wish):
        candidate = Candidate(row.id, row.owner_id, row.batch_id, row.priority, row.source_host)
        rows.setdefault(row.batch_id, []).append(candidate)
    return dict(rows)


def _read_in_flight(connection: Connection, queue: Queue) -> InFlight:
    flight = InFlight()
    for row in connection.execute(_IN_FLIGHT, {"queue": queue.value}):
        flight.owners[row.owner_id] += row.number
        flight.lines[row.owner_id, row.batch_id] += row.number
        flight.hosts[row.source_host] += row.number
    return flight
