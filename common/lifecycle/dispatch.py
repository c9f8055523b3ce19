"""What the dispatcher does to jobs: mark them as published, take that back, find lost messages, rescue lost leases.

Any number of dispatchers may call these at once: rows that another one holds are skipped, never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, TextClause, func, null, or_, select, text, tuple_, update

from common.contract import Queue, Status
from common.lifecycle.attempts import Release, give_back
from common.lifecycle.events import Event
from common.settings import Settings
from common.tables import PUBLISHED, RUNNING, WAITING, jobs, publish_seq

_BY_TURNS: Final = text("""
    SELECT pick.id
    FROM owners
    CROSS JOIN LATERAL (
        SELECT id, row_number() OVER (ORDER BY available_at, id) AS turn
        FROM jobs
        WHERE queue = :queue AND owner_id = owners.id
          AND status = 'created' AND publish_seq IS NULL AND available_at <= now()
        ORDER BY available_at, id
        LIMIT :room
    ) AS pick
    ORDER BY pick.turn, owners.id <= :last_owner, owners.id
    LIMIT :room
""")
"""One job of each owner, then the next of each: nobody waits behind somebody else's thousand. The owner that was
served last goes to the end of a turn."""

_FIRST_OWNER: Final = UUID(int=0)


@dataclass(frozen=True)
class Published:
    """A message to send: the publish number makes its Celery id unique, the place orders it among all messages."""

    job: UUID
    owner: UUID
    number: int
    place: int


def publish_waiting(
    connection: Connection, queue: Queue, *, room: int, last_owner: UUID | None = None
) -> list[Published]:
    """Mark at most `room` due jobs as published, by turns between owners, and return their messages in that order."""
    if room <= 0:
        return []
    order = list(
        connection.execute(
            _BY_TURNS, {"queue": queue.value, "room": room, "last_owner": last_owner or _FIRST_OWNER}
        ).scalars()
    )
    sent = _mark(connection, order, WAITING)
    return sorted(sent, key=lambda message: order.index(message.job))


def publish_lost(
    connection: Connection, queue: Queue, *, queue_is_empty: bool, lost_seconds: float, limit: int = 500
) -> list[Published]:
    """Mark messages as sent again that nobody claimed in time although the queue is empty or a later one was claimed.

    A message that was not lost after all is harmless: the claim lets only one of the two through.
    """
    overtaken = select(func.max(jobs.c.publish_seq)).where(jobs.c.queue == queue.value, RUNNING).scalar_subquery()
    lost = list(
        connection.execute(
            select(jobs.c.id)
            .where(
                jobs.c.queue == queue.value,
                PUBLISHED,
                jobs.c.published_at < func.now() - timedelta(seconds=lost_seconds),
                *([] if queue_is_empty else [jobs.c.publish_seq < overtaken]),
            )
            .order_by(jobs.c.publish_seq)
            .limit(limit)
        ).scalars()
    )
    return sorted(_mark(connection, lost, PUBLISHED), key=lambda message: message.place)


def withdraw(connection: Connection, messages: Sequence[Published]) -> int:
    """Take publishes back that Redis did not take, so that they wait again; returns how many still waited."""
    if not messages:
        return 0
    return connection.execute(
        update(jobs)
        .where(PUBLISHED, tuple_(jobs.c.id, jobs.c.publish_seq).in_([(sent.job, sent.place) for sent in messages]))
        .values(publish_seq=null())
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
            or_(jobs.c.on_device, jobs.c.attempt >= settings.max_uncounted_attempts).label("counts"),
        )
        .where(jobs.c.status == Status.PROCESSING, jobs.c.lease_until < func.now())
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
        for row in rows
    ]


def _mark(connection: Connection, ids: Sequence[UUID], expected: TextClause) -> list[Published]:
    if not ids:
        return []
    # A row locked by another dispatcher, a cancel or a claim is theirs: skipped here, seen in the next pass.
    free = select(jobs.c.id).where(jobs.c.id.in_(ids), expected).with_for_update(skip_locked=True)
    rows: Any = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(free.scalar_subquery()), expected)
        .values(publish_no=jobs.c.publish_no + 1, publish_seq=publish_seq.next_value(), published_at=func.now())
        .returning(jobs.c.id, jobs.c.owner_id, jobs.c.publish_no, jobs.c.publish_seq)
    )
    return [Published(row.id, row.owner_id, row.publish_no, row.publish_seq) for row in rows]
