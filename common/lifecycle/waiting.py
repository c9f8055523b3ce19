"""The jobs that wait to be published, as few of them as it takes to say whose turn it is.

Everything here costs as much as is published, a hop for each owner with single jobs and a few rows for each open batch,
however much waits.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from common.contract import Queue
from common.lifecycle.source_hosts import paused_hosts
from common.lifecycle.turns import RUN, Candidate, InFlight, LineName, Turns, in_turn, lines_of

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

_OWNERS: Final = text("""
    WITH RECURSIVE waiting (owner_id, since) AS (
        (
            SELECT owner_id, available_at FROM jobs
            WHERE queue = :queue AND status = 'created' AND publish_seq IS NULL AND batch_id IS NULL
            ORDER BY owner_id, available_at LIMIT 1
        )
        UNION ALL
        SELECT later.owner_id, later.available_at
        FROM waiting
        CROSS JOIN LATERAL (
            SELECT owner_id, available_at FROM jobs
            WHERE queue = :queue AND status = 'created' AND publish_seq IS NULL AND batch_id IS NULL
              AND owner_id > waiting.owner_id
            ORDER BY owner_id, available_at LIMIT 1
        ) AS later
    )
    SELECT owner_id FROM waiting WHERE since <= now()
""")
"""Owners with single jobs that are due, found by hopping from one to the next in ix_jobs_waiting: those who wait for
nothing cost nothing."""

_SINGLES: Final = text("""
    SELECT pick.id, waiting.owner_id
    FROM unnest(CAST(:owners AS uuid[])) AS waiting (owner_id)
    CROSS JOIN LATERAL (
        SELECT id, available_at FROM jobs
        WHERE queue = :queue AND owner_id = waiting.owner_id
          AND status = 'created' AND publish_seq IS NULL AND batch_id IS NULL AND available_at <= now()
        ORDER BY available_at, id
        LIMIT :depth
    ) AS pick
    ORDER BY pick.available_at, pick.id
""")

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
    WHERE batches.id = ANY(CAST(:batches AS uuid[])) AND batches.state = 'open' AND batches.ended_at IS NULL
""")
"""A batch goes through its lanes one after the other: all rows of one set of LoRAs, there host by host. Lanes are found
by hopping, and only so many as it takes to fill the depth; a host that has no room costs one hop."""

_BATCHES: Final = text("SELECT id, owner_id FROM batches WHERE state = 'open' AND ended_at IS NULL")


def next_jobs(connection: Connection, queue: Queue, turns: Turns, *, room: int, host_limit: int) -> list[UUID]:
    """Return at most `room` due jobs in the order in which to publish them, and remember the turns as given.

    `host_limit` bounds how many jobs of batches that fetch from one host may be in flight; 0: no bound.
    """
    flight = _read_in_flight(connection, queue)
    singles = connection.execute(_OWNERS, {"queue": queue.value}).scalars().all()
    batches = {row.id: row.owner_id for row in connection.execute(_BATCHES)} if queue is Queue.BULK else {}
    lines = [*((owner, None) for owner in singles), *((owner, batch) for batch, owner in batches.items())]
    turns.meet(chain(lines, (owner for owner, _ in lines)))
    # No other owner can have a turn before each of these has had one, and then no room is left.
    owners = heapq.nsmallest(room, singles, key=lambda owner: (flight.owners[owner], turns.last(owner), owner))
    any_host_room = host_limit or room
    host_room = {host: max(0, any_host_room - number) for host, number in flight.hosts.items()} if host_limit else {}
    host_room |= dict.fromkeys(paused_hosts(connection), 0) | {"": room}
    front = _Front(connection, queue, host_room, any_host_room)
    # Of a thousand lines each shows a few jobs, and more only where all of them were looked at: what is chosen is the
    # same as if each had shown as many as there is room for.
    depth = min(room, max(2 * RUN, 4 * room // max(1, len(owners) + len(batches))))
    shown = front.read(owners, list(batches), depth)
    depths = dict.fromkeys(shown, depth)
    while True:
        left = lines_of(chain.from_iterable(shown.values()))
        chosen = in_turn(left, flight, turns, room=room, host_room=host_room, any_host_room=any_host_room)
        cut_off = (line for line, jobs in shown.items() if len(jobs) == depths[line] < room)
        used_up = [(owner, batch) for owner, batch in cut_off if not left[owner][batch]]
        if not used_up:
            turns.give(chosen)
            return [candidate.job for candidate in chosen]
        depth = min(room, 4 * depth)
        depths |= dict.fromkeys(used_up, depth)
        shown |= front.read(
            [owner for owner, batch in used_up if batch is None], [batch for _, batch in used_up if batch], depth
        )


@dataclass(frozen=True)
class _Front:
    """The first jobs of each line."""

    connection: Connection
    queue: Queue
    host_room: Mapping[str, int]
    any_host_room: int

    def read(self, owners: Sequence[UUID], batches: Sequence[UUID], depth: int) -> dict[LineName, list[Candidate]]:
        """Read at most `depth` due jobs of each batch, and of each owner as many of those without one."""
        jobs: list[Candidate] = []
        if owners:
            wish = {"queue": self.queue.value, "owners": owners, "depth": depth}
            jobs += [Candidate(row.id, row.owner_id) for row in self.connection.execute(_SINGLES, wish)]
        if batches:
            hosts = {"host_room": json.dumps(self.host_room), "any_host_room": self.any_host_room}
            rows = self.connection.execute(_ROWS, {"batches": batches, "depth": depth, **hosts})
            jobs += [Candidate(row.id, row.owner_id, row.batch_id, row.priority, row.source_host) for row in rows]
        lines: dict[LineName, list[Candidate]] = {}
        for job in jobs:
            lines.setdefault((job.owner, job.batch), []).append(job)
        return lines


def _read_in_flight(connection: Connection, queue: Queue) -> InFlight:
    flight = InFlight()
    for row in connection.execute(_IN_FLIGHT, {"queue": queue.value}):
        flight.owners[row.owner_id] += row.number
        flight.lines[row.owner_id, row.batch_id] += row.number
        flight.hosts[row.source_host] += row.number
    return flight
