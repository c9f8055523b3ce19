"""The history of a job: one row for each thing that happened, written in the transaction in which it happened."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert

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
    record_all(connection, event, [(job, attempt)], **detail)


def record_all(connection: Connection, event: Event, jobs: Iterable[tuple[UUID, int]], **detail: Any) -> None:
    """Write the same event for several (job, attempt) pairs."""
    rows = [{"job_id": job, "event": event.value, "attempt": attempt, "detail": detail} for job, attempt in jobs]
    if rows:
        connection.execute(insert(job_events), rows)
