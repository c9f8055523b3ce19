"""What an owner asks for: create, cancel, retry, delete. Each sees only jobs of that owner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, insert, null, select, true, update

from common.contract import FillRequest, Queue, Status
from common.database import notify_jobs
from common.ids import new_id
from common.lifecycle.batch_states import lock_batches, reopen
from common.lifecycle.counts import CANCELLED, count_moves
from common.lifecycle.events import Event, record, record_all
from common.lifecycle.locks import among, lock
from common.tables import jobs


def create(connection: Connection, owner: UUID, request: FillRequest, *, queue: Queue, model: str) -> UUID:
    """Insert one job, wake the dispatcher at commit, and return the job's id.

    `request` must carry a drawn seed, so that every retry makes the same image.
    """
    if request.seed < 0:
        raise ValueError("draw the seed first: request.with_seed()")
    job = new_id()
    connection.execute(
        insert(jobs).values(
            id=job, owner_id=owner, queue=queue.value, model=model, request=request.model_dump(mode="json")
        )
    )
    record(connection, Event.CREATED, job, 0)
    notify_jobs(connection)
    return job


def cancel(connection: Connection, owner: UUID, wanted: Iterable[UUID]) -> list[UUID]:
    """Cancel jobs: what waits fails at once with error "cancelled", what runs is marked and stops within a step.

    Returns the ids that were still under way; the others are over, or not this owner's, and stay as they are.
    """
    under_way = lock(
        connection,
        wanted,
        jobs.c.owner_id == owner,
        jobs.c.deleted_at.is_(None),
        jobs.c.status.in_([Status.CREATED, Status.PROCESSING]),
    )
    cancel_locked(connection, under_way)
    return [row.id for row in under_way]


def cancel_locked(connection: Connection, under_way: Sequence[Row[*tuple[Any, ...]]]) -> None:
    """Cancel jobs that `lock` has returned, all of them waiting or running."""
    waiting = [(row.id, row.attempt) for row in under_way if row.status == Status.CREATED]
    running = [
        (row.id, row.attempt)
        for row in under_way
        if row.status == Status.PROCESSING and row.cancel_requested_at is None
    ]
    connection.execute(
        update(jobs)
        .where(among(job for job, _ in waiting), jobs.c.status == Status.CREATED)
        .values(
            status=Status.FAILED,
            error_code=CANCELLED,
            error=CANCELLED,
            ended_at=func.now(),
            retryable=true(),
            cancel_requested_at=func.now(),
            publish_seq=null(),
        )
    )
    connection.execute(
        update(jobs)
        .where(among(job for job, _ in running), jobs.c.status == Status.PROCESSING)
        .values(cancel_requested_at=func.now())
    )
    record_all(connection, Event.FAILED, waiting, code=CANCELLED)
    record_all(connection, Event.CANCEL_REQUESTED, running)
    count_moves(
        connection,
        ((row.batch_id, Status.CREATED, Status.FAILED, CANCELLED) for row in under_way if row.status == Status.CREATED),
    )


def retry(connection: Connection, owner: UUID, wanted: Iterable[UUID]) -> list[UUID]:
    """Put failed jobs back to created with a clean count of failures; returns the ids that were failed.

    A batch that was over is opened again, unless it is still being cancelled.
    """
    wanted = list(wanted)
    # Batches before jobs, as whoever retries a whole batch has it: see batch_states.py.
    theirs = select(jobs.c.batch_id).where(among(wanted), jobs.c.owner_id == owner, jobs.c.batch_id.is_not(None))
    lock_batches(connection, connection.execute(theirs.distinct()).scalars())
    failed = lock(
        connection,
        wanted,
        jobs.c.owner_id == owner,
        jobs.c.deleted_at.is_(None),
        jobs.c.status == Status.FAILED,
    )
    if not failed:
        return []
    connection.execute(
        update(jobs)
        .where(among(row.id for row in failed), jobs.c.status == Status.FAILED)
        .values(
            status=Status.CREATED,
            failures=0,
            available_at=func.now(),
            publish_seq=null(),
            cancel_requested_at=null(),
            error_code=null(),
            error=null(),
            retryable=null(),
            ended_at=null(),
            result=null(),
            pins={},
        )
    )
    record_all(connection, Event.RETRIED, ((row.id, row.attempt) for row in failed))
    reopen(connection, {row.batch_id for row in failed if row.batch_id is not None})
    count_moves(connection, ((row.batch_id, Status.FAILED, Status.CREATED, row.error_code) for row in failed))
    notify_jobs(connection)
    return [row.id for row in failed]


def delete(connection: Connection, owner: UUID, wanted: Iterable[UUID]) -> list[UUID]:
    """Hide jobs from their owner, cancelling those under way; returns the ids that were there to delete."""
    there = lock(connection, wanted, jobs.c.owner_id == owner, jobs.c.deleted_at.is_(None))
    ids = [row.id for row in there]
    cancel(connection, owner, ids)
    connection.execute(update(jobs).where(among(ids), jobs.c.deleted_at.is_(None)).values(deleted_at=func.now()))
    record_all(connection, Event.DELETED, ((row.id, row.attempt) for row in there))
    return ids
