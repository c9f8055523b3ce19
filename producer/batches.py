"""Reads batches for their owner: one, a page of them, who works on one, which of its rows were bad. It changes nothing.

Whoever asks for another owner's batch or an unknown one gets the same None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, func, select

from common.contract import BatchState, Status
from common.ids import parse_id
from common.lifecycle import Counts, Reject, read_counts
from common.tables import RUNNING, batch_rejects, batches, jobs, workers

_PAGE: Final = 1000


@dataclass(frozen=True)
class Batch:
    """A batch as its owner may see it."""

    id: UUID
    owner: UUID
    name: str
    state: BatchState
    counts: Counts
    rejected: int
    """Bad rows, which are no jobs."""
    priority: int
    strict: bool
    defaults: Mapping[str, Any]
    """Fields of the contract for rows that say nothing of them."""
    cursor: int
    """Its manifest is read up to this row."""
    digest: str
    """Of the rows up to the cursor, as whoever sent them has it."""
    read_by_server: bool
    """Whether the server reads the manifest; otherwise rows are sent."""
    extra_columns: tuple[str, ...]
    """The passed-through columns, as they came first."""
    error: str | None
    """Why its manifest could not be read, or was refused; for the user."""
    webhook_url: str | None
    created_at: datetime
    opened_at: datetime | None
    ended_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to any of its rows unless somebody asks for it."""
        return self.state is not BatchState.RECEIVING and self.counts.left == 0


@dataclass(frozen=True)
class WorkerLine:
    """A worker that has jobs of a batch right now."""

    worker: str
    hostname: str
    state: str
    jobs: int
    seconds: float
    """How long it has had the oldest of them."""


@dataclass(frozen=True)
class ErrorCause:
    """One reason why rows failed."""

    code: str
    number: int
    """How many rows."""
    example: str
    """What one of them says."""


def get_batch(connection: Connection, owner: UUID, batch: UUID) -> Batch | None:
    """Return the batch if it is this owner's."""
    return _one(connection, batches.c.owner_id == owner, batches.c.id == batch)


def find_batch(connection: Connection, owner: UUID, name_or_id: str) -> Batch | None:
    """Return the owner's batch of that id, or else the one that has that name; of discarded ones only by id."""
    batch = parse_id(name_or_id)
    found = get_batch(connection, owner, batch) if batch else None
    if found is not None:
        return found
    return _one(
        connection,
        batches.c.owner_id == owner,
        batches.c.name == name_or_id,
        batches.c.discarded_at.is_(None),
    )


def look_up_batch(connection: Connection, owner: UUID, name_or_id: str) -> Batch | None:
    """Return the same, or else the newest discarded batch of that name: its owner asks why nothing of it ran."""
    found = find_batch(connection, owner, name_or_id)
    if found is not None:
        return found
    named = select(batches.c.id).where(batches.c.owner_id == owner, batches.c.name == name_or_id)
    newest = connection.execute(named.order_by(batches.c.id.desc()).limit(1)).scalar_one_or_none()
    return None if newest is None else get_batch(connection, owner, newest)


def list_batches(
    connection: Connection, owner: UUID, *, page: int, page_size: int, state: BatchState | None = None
) -> tuple[list[Batch], int]:
    """Return a page (the first is 1) of the owner's batches, newest first, and how many there are in all."""
    conditions = [batches.c.owner_id == owner, *([] if state is None else [batches.c.state == state])]
    total = connection.execute(select(func.count()).select_from(batches).where(*conditions)).scalar_one()
    newest = select(batches).where(*conditions).order_by(batches.c.id.desc())
    rows = connection.execute(newest.limit(page_size).offset((page - 1) * page_size)).all()
    counts = read_counts(connection, [row.id for row in rows])
    return [_batch(row, counts[row.id]) for row in rows], total


def workers_on(connection: Connection, batch: UUID) -> list[WorkerLine]:
    """Return who has jobs of this batch right now, by name."""
    running = (
        select(
            jobs.c.worker_id,
            func.count().label("number"),
            func.extract("epoch", func.now() - func.min(jobs.c.started_at)).label("seconds"),
        )
        .where(RUNNING, jobs.c.batch_id == batch)
        .group_by(jobs.c.worker_id)
        .subquery()
    )
    rows = connection.execute(
        select(running, workers.c.hostname, workers.c.state)
        .outerjoin(workers, workers.c.id == running.c.worker_id)
        .order_by(running.c.worker_id)
    )
    return [
        WorkerLine(row.worker_id, row.hostname or "", row.state or "unknown", row.number, float(row.seconds))
        for row in rows
    ]


def error_causes(connection: Connection, batch: UUID, *, limit: int = 20) -> list[ErrorCause]:
    """Return why rows of the batch failed, the most frequent cause first."""
    number = func.count().label("number")
    causes = (
        select(jobs.c.error_code, number, func.min(jobs.c.error).label("example"))
        .where(jobs.c.batch_id == batch, jobs.c.status == Status.FAILED)
        .group_by(jobs.c.error_code)
        .order_by(number.desc(), jobs.c.error_code)
        .limit(limit)
    )
    return [ErrorCause(row.error_code, row.number, row.example) for row in connection.execute(causes)]


def read_rejects(connection: Connection, batch: UUID, *, after: int = 0, limit: int = _PAGE) -> list[Reject]:
    """Return bad rows with a number above `after`, in order; fewer than `limit` were the last."""
    wanted = select(batch_rejects).where(batch_rejects.c.batch_id == batch, batch_rejects.c.row_no > after)
    rows = connection.execute(wanted.order_by(batch_rejects.c.row_no).limit(limit))
    return [Reject(row.row_no, row.custom_id, row.place, row.field, row.value, row.reason) for row in rows]


def _one(connection: Connection, *conditions: Any) -> Batch | None:
    row = connection.execute(select(batches).where(*conditions)).one_or_none()
    return None if row is None else _batch(row, read_counts(connection, [row.id])[row.id])


def _batch(row: Row[*tuple[Any, ...]], counts: Counts) -> Batch:
    return Batch(
        id=row.id,
        owner=row.owner_id,
        name=row.name,
        state=BatchState(row.state),
        counts=counts,
        rejected=row.rejected,
        priority=row.priority,
        strict=row.strict,
        defaults=row.defaults,
        cursor=row.row_cursor,
        digest=row.digest,
        read_by_server=row.manifest is not None,
        extra_columns=tuple(row.extra_columns),
        error=row.error,
        webhook_url=row.webhook_url,
        created_at=row.created_at,
        opened_at=row.opened_at,
        ended_at=row.ended_at,
    )
