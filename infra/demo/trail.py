"""A job's trail through the system, as Postgres tells it: attempts, worker, and what happened when.

It only reads: what the API said is compared with the truth here, never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import select

from common.database import make_engine, transaction
from common.result import JobResult
from common.settings import Environment, Settings
from common.tables import job_events, jobs


@dataclass(frozen=True)
class Step:
    """One event of a job, `seconds` after it was created."""

    event: str
    seconds: float


@dataclass(frozen=True)
class Trail:
    """One job's row and its events."""

    attempts: int
    failures: int
    publishes: int
    queue: str
    seconds: float | None
    """From created to ended; None where it has not ended."""
    result: JobResult | None
    steps: tuple[Step, ...]


def read_trails(database_url: str, ids: Iterable[str]) -> dict[str, Trail]:
    """Return the trails of these jobs by id (hex). Raises Unavailable."""
    settings = Settings(fillfleet_env=Environment.DEVELOPMENT, database_url=SecretStr(database_url))
    engine = make_engine(settings, pool_size=1, application="fillfleet demo")
    wanted = [UUID(hex=one) for one in ids]
    try:
        with transaction(engine) as connection:
            rows = connection.execute(select(jobs).where(jobs.c.id.in_(wanted))).all()
            events = connection.execute(
                select(job_events).where(job_events.c.job_id.in_(wanted)).order_by(job_events.c.id)
            ).all()
    finally:
        engine.dispose()
    steps: dict[UUID, list[Step]] = {}
    created = {row.id: row.created_at for row in rows}
    for event in events:
        since = event.at - created[event.job_id]
        steps.setdefault(event.job_id, []).append(Step(event.event, since.total_seconds()))
    return {
        row.id.hex: Trail(
            attempts=row.attempt,
            failures=row.failures,
            publishes=row.publish_no,
            queue=row.queue,
            seconds=_seconds(row.created_at, row.ended_at),
            result=JobResult.model_validate(row.result) if row.result is not None else None,
            steps=tuple(steps.get(row.id, ())),
        )
        for row in rows
    }


def _seconds(start: datetime, end: datetime | None) -> float | None:
    return None if end is None else (end - start).total_seconds()
