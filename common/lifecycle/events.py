"""The history of a job: one row for each thing that happened, written in the transaction in which it happened."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Connection, Integer, Uuid, column, func, insert, literal, select

from common.tables import job_events


class Event(StrEnum):
    """What can happen to a job."""

    CREATED = "created"
    CLAIMED = "claimed"
    RELEASED = "released"
    RESCUED = "rescued"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCEL_REQUESTED = "cancel_requested"
    RETRIED = "retried"
    DELETED = "deleted"


def record(connection: Connection, event: Event, job: UUID, attempt: int, **detail: Any) -> None:
    """Write one event of one job."""
    connection.execute(insert(job_events).values(job_id=job, event=event.value, attempt=attempt, detail=detail))


def record_all(connection: Connection, event: Event, jobs: Iterable[tuple[UUID, int]], **detail: Any) -> None:
    """Write the same event for several (job, attempt) pairs."""
    pairs = list(jobs)
    if not pairs:
        return
    # Two arrays in one statement: a batch may have a million rows to cancel, and as many statements take far longer.
    ids = literal([job for job, _ in pairs], ARRAY(Uuid))
    attempts = literal([attempt for _, attempt in pairs], ARRAY(Integer))
    which = func.unnest(ids, attempts).table_valued(column("id", Uuid), column("attempt", Integer), name="which")
    which = which.render_derived()
    rows = select(which.c.id, literal(event.value), which.c.attempt, literal(detail, job_events.c.detail.type))
    connection.execute(insert(job_events).from_select(["job_id", "event", "attempt", "detail"], rows))
