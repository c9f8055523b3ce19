"""What a worker does with its attempt at a job: claim, renew, pin, complete, fail, release.

Everything after the claim is fenced by (job, status = processing, attempt): zero rows is LeaseLost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, exists, false, func, literal, null, or_, select, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from common.contract import BatchState, FillRequest, Status
from common.database import notify_jobs
from common.errors import FillfleetError, LeaseLost, Rejected
from common.lifecycle.counts import CANCELLED, count_moves
from common.lifecycle.events import Event, record
from common.lifecycle.locks import among, lock
from common.lifecycle.source_hosts import pause_host
from common.settings import Settings
from common.tables import batches, jobs

_MAX_ERROR_CHARS: Final = 2000
_OF_OPEN_BATCH: Final = exists().where(batches.c.id == jobs.c.batch_id, batches.c.state == BatchState.OPEN)


@dataclass(frozen=True)
class Claim:
    """A job that this worker may work on until its lease ends."""

    job: UUID
    owner: UUID
    attempt: int
    stored_request: Mapping[str, Any]
    pins: Mapping[str, str]
    """sha256 by input, as first fetched by an earlier attempt."""
    created_at: datetime
    started_at: datetime
    batch: UUID | None = None

    @cached_property
    def request(self) -> FillRequest:
        """What is asked for. Raises pydantic.ValidationError where another version stored what this one cannot read.

        Read after the claim, so that such a job fails like any other, in the hands of the worker that has it.
        """
        return FillRequest.model_validate(self.stored_request)


@dataclass(frozen=True)
class Renewal:
    """What became of one lease at a heartbeat."""

    job: UUID
    attempt: int
    cancel_requested: bool


@dataclass(frozen=True)
class Release:
    """Why a job is given back, and whether that counts against it."""

    code: str
    message: str
    counts: bool
    delay_seconds: float | None = None
    """How long it must wait; by default the backoff where it counts, and nothing where it does not."""
    host: str | None = None
    """A host that said that it is too busy: no job that fetches its image there is published…"""
    host_pause_seconds: float = 0.0
    """…for so long."""


def claim(connection: Connection, job: UUID, *, worker: str, lease_seconds: float) -> Claim | None:
    """Take the job if it is due and nobody has it, raising its attempt by one; None means: drop the message."""
    row = connection.execute(
        update(jobs)
        .where(
            jobs.c.id == job,
            jobs.c.status == Status.CREATED,
            jobs.c.available_at <= func.now(),
            jobs.c.cancel_requested_at.is_(None),
            or_(jobs.c.batch_id.is_(None), _OF_OPEN_BATCH),
        )
        .values(
            status=Status.PROCESSING,
            attempt=jobs.c.attempt + 1,
            worker_id=worker,
            lease_until=_after(lease_seconds),
            on_device=false(),
            started_at=func.now(),
        )
        .returning(
            jobs.c.owner_id,
            jobs.c.attempt,
            jobs.c.request,
            jobs.c.pins,
            jobs.c.created_at,
            jobs.c.started_at,
            jobs.c.batch_id,
        )
    ).one_or_none()
    if row is None:
        return None
    record(connection, Event.CLAIMED, job, row.attempt, worker=worker)
    count_moves(connection, [(row.batch_id, Status.CREATED, Status.PROCESSING, None)])
    return Claim(
        job=job,
        owner=row.owner_id,
        attempt=row.attempt,
        stored_request=row.request,
        pins=row.pins,
        created_at=row.created_at,
        started_at=row.started_at,
        batch=row.batch_id,
    )


def renew(connection: Connection, held: Sequence[tuple[UUID, int, bool]], *, lease_seconds: float) -> list[Renewal]:
    """Lengthen the leases of (job, attempt, is on the device). What is missing in the answer is lost."""
    if not held:
        return []
    attempt_of_job = tuple_(jobs.c.id, jobs.c.attempt)
    fence = attempt_of_job.in_([(job, attempt) for job, attempt, _ in held])
    rows = lock(connection, (job for job, _, _ in held), jobs.c.status == Status.PROCESSING, fence)
    on_device = [(job, attempt) for job, attempt, device in held if device]
    connection.execute(
        update(jobs)
        .where(among(row.id for row in rows), jobs.c.status == Status.PROCESSING, fence)
        .values(lease_until=_after(lease_seconds), on_device=attempt_of_job.in_(on_device))
    )
    return [Renewal(row.id, row.attempt, row.cancel_requested_at is not None) for row in rows]


def pin(connection: Connection, job: UUID, attempt: int, pins: Mapping[str, str]) -> None:
    """Remember the sha256 of inputs at their first fetch. Raises LeaseLost."""
    merged = jobs.c.pins.op("||")(literal(dict(pins), type_=jobs.c.pins.type))
    _change(connection, job, attempt, pins=merged)


def complete(connection: Connection, job: UUID, attempt: int, result: Mapping[str, Any]) -> None:
    """End the attempt with its result. Raises LeaseLost where the job is no longer this attempt's."""
    batch = _change(connection, job, attempt, **_ended(Status.COMPLETED), result=dict(result))
    record(connection, Event.COMPLETED, job, attempt)
    count_moves(connection, [(batch, Status.PROCESSING, Status.COMPLETED, None)])


def fail(connection: Connection, job: UUID, attempt: int, error: FillfleetError) -> None:
    """End the attempt for good with a message for the user. Raises LeaseLost."""
    values = {
        "error_code": error.code,
        "error": _storable(error.message),
        "retryable": not isinstance(error, Rejected),
    }
    batch = _change(connection, job, attempt, **_ended(Status.FAILED), **values)
    record(connection, Event.FAILED, job, attempt, code=error.code)
    count_moves(connection, [(batch, Status.PROCESSING, Status.FAILED, error.code)])


def release(connection: Connection, job: UUID, attempt: int, why: Release, settings: Settings) -> Status:
    """Give the job back, or end it where it was cancelled or has no failure left; returns its new status.

    Raises LeaseLost.
    """
    row = connection.execute(
        select(jobs.c.id, jobs.c.attempt, jobs.c.failures, jobs.c.cancel_requested_at)
        .where(jobs.c.id == job, jobs.c.status == Status.PROCESSING, jobs.c.attempt == attempt)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise LeaseLost
    status = give_back(connection, row, why, Event.RELEASED, settings)
    # Whatever becomes of this job: the host wants rest from the others.
    if why.host and why.host_pause_seconds > 0:
        pause_host(connection, why.host, why.host_pause_seconds)
    return status


def give_back(
    connection: Connection, row: Row[*tuple[Any, ...]], why: Release, event: Event, settings: Settings
) -> Status:
    """Do what release and rescue share, on a row (id, attempt, failures, cancel_requested_at) locked by the caller."""
    failures = row.failures + int(why.counts)
    if row.cancel_requested_at is not None:
        fail(connection, row.id, row.attempt, FillfleetError(CANCELLED, CANCELLED))
        return Status.FAILED
    if why.counts and failures >= settings.max_failures:
        tries = "once" if failures == 1 else f"{failures} times"
        batch = _change(
            connection,
            row.id,
            row.attempt,
            **_ended(Status.FAILED),
            failures=failures,
            error_code=why.code,
            error=f"{_storable(why.message)} (tried {tries})",
            retryable=True,
        )
        record(connection, Event.FAILED, row.id, row.attempt, code=why.code, failures=failures)
        count_moves(connection, [(batch, Status.PROCESSING, Status.FAILED, why.code)])
        return Status.FAILED
    delay = why.delay_seconds
    batch = _change(
        connection,
        row.id,
        row.attempt,
        status=Status.CREATED,
        failures=failures,
        lease_until=null(),
        worker_id=null(),
        on_device=false(),
        publish_seq=null(),
        available_at=_backoff(failures, settings) if delay is None and why.counts else _after(delay or 0.0),
    )
    record(connection, event, row.id, row.attempt, code=why.code, counts=why.counts)
    count_moves(connection, [(batch, Status.PROCESSING, Status.CREATED, None)])
    notify_jobs(connection)
    return Status.CREATED


def _change(connection: Connection, job: UUID, attempt: int, **values: Any) -> UUID | None:
    """Change the job of this attempt and return its batch. Raises LeaseLost."""
    changed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job, jobs.c.status == Status.PROCESSING, jobs.c.attempt == attempt)
        .values(**values)
        .returning(jobs.c.batch_id)
    ).one_or_none()
    if changed is None:
        raise LeaseLost
    batch: UUID | None = changed.batch_id
    return batch


def _ended(status: Status) -> dict[str, Any]:
    return {
        "status": status,
        "ended_at": func.now(),
        "lease_until": null(),
        "on_device": false(),
        # Left set, it would make the planner think that a good part of the table is published and waiting.
        "publish_seq": null(),
    }


def _storable(message: str) -> str:
    # It may quote what a stranger's file or server said; Postgres takes neither NUL nor half a surrogate pair, and a
    # message that cannot be stored would leave its job without an end.
    text = message.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _MAX_ERROR_CHARS else text[: _MAX_ERROR_CHARS - 1] + "…"


def _after(seconds: float) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=seconds)


def _backoff(failures: int, settings: Settings) -> ColumnElement[datetime]:
    # Doubles with each failure; the jitter keeps a thousand jobs from coming back in the same second.
    pause = min(settings.backoff_max_seconds, settings.backoff_seconds * 2 ** (failures - 1))
    return func.now() + timedelta(seconds=pause) * (0.5 + func.random())
