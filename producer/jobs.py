"""Reads jobs for their owner: one by its id, or a page of them. It never changes a job, nor shows a deleted one.

Whoever asks for another owner's job, an unknown or a deleted one gets the same None.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, func, select

from common.contract import FillRequest, Status
from common.result import JobResult
from common.tables import jobs

_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.model,
    jobs.c.request,
    jobs.c.status,
    jobs.c.result,
    jobs.c.error_code,
    jobs.c.error,
    jobs.c.created_at,
    jobs.c.started_at,
    jobs.c.ended_at,
)


@dataclass(frozen=True)
class Job:
    """A job as its owner may see it."""

    id: UUID
    model: str
    """The name that the client submitted to."""
    request: FillRequest
    status: Status
    result: JobResult | None
    """Set where completed."""
    error_code: str | None
    error: str | None
    """For the user; set where failed."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; None means: any. The bounds of time are exclusive."""

    model: str | None = None
    status: Status | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True)
class JobPage:
    """Some of an owner's jobs, newest first, and how many there are in all."""

    jobs: tuple[Job, ...]
    total: int


def get_job(connection: Connection, owner: UUID, job: UUID) -> Job | None:
    """Return the job if it is this owner's and not deleted."""
    row = connection.execute(select(*_COLUMNS).where(*_visible(owner), jobs.c.id == job)).one_or_none()
    return None if row is None else _job(row)


def list_jobs(connection: Connection, owner: UUID, wanted: JobFilter, *, page: int, page_size: int) -> JobPage:
    """Return a page (the first is 1) of the owner's jobs, newest first."""
    conditions = [*_visible(owner), *_conditions(wanted)]
    total = connection.execute(select(func.count()).select_from(jobs).where(*conditions)).scalar_one()
    # Ids are made in order of time, and (owner_id, id) is an index.
    rows = connection.execute(
        select(*_COLUMNS).where(*conditions).order_by(jobs.c.id.desc()).limit(page_size).offset((page - 1) * page_size)
    )
    return JobPage(tuple(_job(row) for row in rows), total)


def _visible(owner: UUID) -> tuple[ColumnElement[bool], ...]:
    return jobs.c.owner_id == owner, jobs.c.deleted_at.is_(None)


def _conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.model is not None:
        conditions.append(jobs.c.model == wanted.model)
    if wanted.status is not None:
        conditions.append(jobs.c.status == wanted.status.value)
    if wanted.created_after is not None:
        conditions.append(jobs.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        conditions.append(jobs.c.created_at < wanted.created_before)
    return conditions


def _job(row: Row[*tuple[Any, ...]]) -> Job:
    return Job(
        id=row.id,
        model=row.model,
        request=FillRequest.model_validate(row.request),
        status=Status(row.status),
        result=None if row.result is None else JobResult.model_validate(row.result),
        error_code=row.error_code,
        error=row.error,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )
