"""What the dispatcher does to jobs: mark them as published, take that back, find lost messages, rescue lost leases.

Any number of dispatchers may call these at once: rows that another one holds are skipped, never waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Connection, Uuid, column, func, literal, null, or_, select, update

from common.contract import Queue, Status
from common.lifecycle.attempts import Release, give_back
from common.lifecycle.events import Event
from common.lifecycle.locks import among, lock
from common.lifecycle.turns import Turns
from common.lifecycle.waiting import next_jobs
from common.settings import Settings
from common.tables import PUBLISHED, RUNNING, jobs, publish_seq

_NO_BATCH: Final = UUID(int=0)


@dataclass(frozen=True)
class Published:
    """A message to send: the publish number makes its Celery id unique, the place orders it among all messages."""

    job: UUID
    owner: UUID
    number: int
    place: int


def publish_waiting(
    connection: Connection, queue: Queue, turns: Turns, *, room: int, host_limit: int = 0
) -> list[Published]:
    """Mark at most `room` due jobs as published, by turns, and return their messages in that order.

    `turns` remembers who had one, for the next call. `host_limit` bounds how many jobs of batches that fetch from one
    host may be in flight; 0: no bound.
    """
    if room <= 0:
        return []
    return _mark(connection, dict.fromkeys(next_jobs(connection, queue, turns, room=room, host_limit=host_limit)))


def publish_lost(
    connection: Connection, queue: Queue, *, queue_is_empty: bool, lost_seconds: float, limit: int = 500
) -> list[Published]:
    """Mark messages as sent again that nobody claimed in time although the queue is empty or a later one was claimed.

    A message that was not lost after all is harmless: the claim lets only one of the two through.
    """
    overtaken = select(func.max(jobs.c.publish_seq)).where(jobs.c.queue == queue.value, RUNNING).scalar_subquery()
    lost = connection.execute(
        select(jobs.c.id, jobs.c.publish_seq)
        .where(
            jobs.c.queue == queue.value,
            PUBLISHED,
            jobs.c.published_at < func.now() - timedelta(seconds=lost_seconds),
            *([] if queue_is_empty else [jobs.c.publish_seq < overtaken]),
        )
        .order_by(jobs.c.publish_seq)
        .limit(limit)
    )
    return _mark(connection, {row.id: row.publish_seq for row in lost})


def withdraw(connection: Connection, messages: Sequence[Published]) -> int:
    """Take publishes back that Redis did not take, so that they wait again; returns how many still waited."""
    if not messages:
        return 0
    places = {message.job: message.place for message in messages}
    rows = lock(connection, places, jobs.c.status == Status.CREATED)
    still_out = [row.id for row in rows if row.publish_seq == places[row.id]]
    return connection.execute(
        update(jobs).where(among(still_out), jobs.c.status == Status.CREATED).values(publish_seq=null())
    ).rowcount


def count_published(connection: Connection, queue: Queue) -> int:
    """Return how many messages of this queue are out and unclaimed."""
    count = select(func.count()).select_from(jobs).where(jobs.c.queue == queue.value, PUBLISHED)
    return int(connection.execute(count).scalar_one())


def rescue(connection: Connection, settings: Settings, *, limit: int = 100) -> list[tuple[UUID, Status]]:
    """Take back jobs whose lease has expired; it counts only for those that were on the device.

    The caller must have been connected for a whole lease length: workers had no way to renew before that.
    """
    rows = connection.execute(
        select(
            jobs.c.id,
            jobs.c.attempt,
            jobs.c.failures,
            jobs.c.cancel_requested_at,
            jobs.c.batch_id,
            or_(jobs.c.on_device, jobs.c.attempt >= settings.max_uncounted_attempts).label("counts"),
        )
        .where(RUNNING, jobs.c.lease_until < func.now())
        .order_by(jobs.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    return [
        (
            row.id,
            give_back(
                connection,
                row,
                Release("worker_lost", "the worker that had this job was lost", counts=row.counts),
                Event.RESCUED,
                settings,
            ),
        )
        # In the order of the batches, whose counts are written: see counts.py.
        for row in sorted(rows, key=lambda row: row.batch_id or _NO_BATCH)
    ]


def _mark(connection: Connection, seen: Mapping[UUID, int | None]) -> list[Published]:
    """Publish those jobs that are free and whose message is still the one seen, numbered in the order of `seen`."""
    # A row locked by another dispatcher, a cancel or a claim is theirs: skipped here, seen in the next pass. One that
    # another dispatcher has already published (or sent again) has another place by now.
    rows = lock(connection, seen, jobs.c.status == Status.CREATED, jobs.c.available_at <= func.now(), skip_locked=True)
    free = {row.id for row in rows if row.publish_seq == seen[row.id]}
    places = dict(zip((job for job in seen if job in free), _next_places(connection, len(free)), strict=True))
    place = func.unnest(literal(list(places), ARRAY(Uuid)), literal(list(places.values()), ARRAY(BigInteger)))
    new = place.table_valued(column("id", Uuid), column("seq", BigInteger), name="new").render_derived()
    marked = connection.execute(
        update(jobs)
        .where(jobs.c.id == new.c.id, jobs.c.status == Status.CREATED)
        .values(publish_no=jobs.c.publish_no + 1, publish_seq=new.c.seq, published_at=func.now())
        .returning(jobs.c.id, jobs.c.owner_id, jobs.c.publish_no, jobs.c.publish_seq)
    )
    sent = [Published(row.id, row.owner_id, row.publish_no, row.publish_seq) for row in marked]
    return sorted(sent, key=lambda message: message.place)


def _next_places(connection: Connection, count: int) -> list[int]:
    drawn = select(publish_seq.next_value()).select_from(func.generate_series(1, count))
    return sorted(connection.execute(drawn).scalars())
